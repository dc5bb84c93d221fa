/* Making and changing a destination: every setting explained, checked as it is filled in, and tried before it is saved. */

import { announce, C, Fragment, Go, h, Icon, Loading, Note, Nothing, toast, toastProblem, Trouble, useEffect, useRef, useRights, useState, Whole, WRONG } from "./kit.js";
import { post, send } from "./api.js";
import { Healths, Switch } from "./destinations.js";
import { Test } from "./destination_test.js";
import { useBusy, useLive } from "./live.js";
import { useRoute } from "./route.js";
import { SettingField } from "./setting_field.js";
import { count } from "./words.js";

const CHECK_AFTER_MS = 400;

const valuesFrom = (schema, settings = {}) =>
  Object.fromEntries(schema.groups.flatMap((group) => group.fields).map((field) => [field.name, settings[field.name] ?? field.default ?? null]));

/** Values the server knows only as text or lists, in one form that can be compared and sent. */
const plain = (field, value) => {
  if (value === null || value === undefined || value === "") return null;
  if (field.type === "list") return (Array.isArray(value) ? value : String(value).split(",").map((part) => part.trim())).filter(Boolean).join(",") || null;
  return typeof value === "boolean" ? value : String(value);
};

/** The values of a form, what is wrong with them (as the server says), and what differs from what is saved. */
const useForm = (schema, saved, name) => {
  const [values, setValues] = useState(() => valuesFrom(schema, saved));
  const [touched, setTouched] = useState(new Set());
  const [problems, setProblems] = useState({});
  const [locked, setLocked] = useState({});
  const fields = schema.groups.flatMap((group) => group.fields);
  const before = valuesFrom(schema, saved);
  const settings = Object.fromEntries(fields.map((field) => [field.name, plain(field, values[field.name])]).filter(([name, value]) => value !== null || before[name] !== null));
  const changed = Object.fromEntries(fields.filter((field) => plain(field, values[field.name]) !== plain(field, before[field.name])).map((field) => [field.name, plain(field, values[field.name])]));

  const settingsKey = JSON.stringify(settings);
  const check = async () => {
    const answer = await post("destinations/check", { settings: JSON.parse(settingsKey), ...(name && { name }) });
    setProblems(answer.fields);
    setLocked(answer.locked);
    return answer.fields;
  };
  const isAsSaved = Boolean(name) && Object.keys(changed).length === 0;
  useEffect(() => {
    if (isAsSaved) {
      setProblems({});
      setLocked({});
      return undefined;
    }
    // What a check that can't be made would have said, saving says.
    const timer = setTimeout(() => check().catch(() => {}), CHECK_AFTER_MS);
    return () => clearTimeout(timer);
  }, [settingsKey, name, isAsSaved]);

  // What was saved meanwhile shows, unless somebody is changing that very field.
  const lastSaved = useRef(saved);
  useEffect(() => {
    const last = valuesFrom(schema, lastSaved.current);
    lastSaved.current = saved;
    setValues((old) => Object.fromEntries(fields.map((field) => [field.name, plain(field, old[field.name]) === plain(field, last[field.name]) ? before[field.name] : old[field.name]])));
  }, [JSON.stringify(saved)]);

  return {
    values, settings, changed, locked, check, setProblems,
    shown: (name) => (touched.has(name) ? problems[name] : undefined),
    set: (name, value) => setValues((old) => ({ ...old, [name]: value })),
    touch: (...names) => setTouched((old) => new Set([...old, ...names])),
    reset: () => { setValues(valuesFrom(schema, saved)); setTouched(new Set()); },
  };
};

const Group = ({ group, form, disabled, isOpen, onToggle, lockedNames }) => {
  const wrong = group.fields.filter((field) => form.shown(field.name)).length;
  return h(C.Box, { borderWidth: 1, borderRadius: "md", mb: 3 },
    h(C.Button, { "aria-expanded": isOpen, borderRadius: "md", h: 11, justifyContent: "flex-start", onClick: onToggle, variant: "ghost", w: "full" },
      h(Icon, { name: "down", transform: isOpen ? undefined : "rotate(-90deg)" }), group.title,
      h(C.Text, { as: "span", color: wrong ? WRONG : "fg.muted", fontSize: "xs", fontWeight: "normal" }, wrong ? `${count(wrong, "field")} to mend` : count(group.fields.length, "setting"))),
    isOpen && h(C.SimpleGrid, { columns: { base: 1, md: 2, xl: 3 }, columnGap: 6, p: 4, pt: 2, rowGap: 5 },
      group.fields.map((field) => h(SettingField, { key: field.name, field, value: form.values[field.name], problem: form.shown(field.name),
        disabled: disabled || (field.name === "name" && form.isExisting), lockedBy: lockedNames.includes(field.name) ? "Locked: see above." : "",
        onChange: (value) => form.set(field.name, value), onBlur: () => form.touch(field.name) }))));
};

/** Why some settings can't simply be changed any more, and the way to do it nevertheless. */
const Lock = ({ lock, reason, onReason, isNeeded, mayConfigure }) =>
  h(Note, { tone: "warning", title: "Some settings are locked", mb: 3 },
    h("div", null, lock.reason),
    mayConfigure && isNeeded && h(C.Field.Root, { mt: 3, required: true },
      h(C.Field.Label, null, "Why you change them nevertheless", h(C.Field.RequiredIndicator)),
      h(C.Input, { bg: "bg", maxLength: 500, onChange: (e) => onReason(e.target.value), size: "sm", value: reason }),
      h(C.Field.HelperText, null, "The change, the reason and your name go into the audit trail.")));

const Removal = ({ name, lock, onRemoved }) => {
  const [isOpen, setIsOpen] = useState(false);
  const [reason, setReason] = useState("");
  const [run, isBusy] = useBusy(async () => {
    try {
      await send("DELETE", `destinations/${name}`, reason.trim() ? { override_reason: reason.trim() } : {});
      toast("success", `${name} is removed`);
      onRemoved();
    } catch (problem) {
      toastProblem(problem);
    }
  });
  const needsReason = lock.needs_reason_to_delete;
  return h(Fragment, null,
    h(C.Button, { colorPalette: "danger", onClick: () => setIsOpen(true), size: "sm", variant: "outline" }, "Remove …"),
    isOpen && h(C.Dialog.Root, { open: true, role: "alertdialog", onOpenChange: ({ open }) => setIsOpen(open) },
      h(C.Portal, null, h(C.Dialog.Backdrop), h(C.Dialog.Positioner, null, h(C.Dialog.Content, null,
        h(C.Dialog.Header, null, h(C.Dialog.Title, null, `Remove destination ${name}?`)),
        h(C.Dialog.Body, null,
          h(C.Text, { mb: 3 }, "Its jobs and all that is known of its archive are forgotten here; the archive itself keeps everything. To have it only rest, switch it off instead."),
          needsReason && h(C.Field.Root, { required: true }, h(C.Field.Label, null, "Why?", h(C.Field.RequiredIndicator)),
            h(C.Input, { onChange: (e) => setReason(e.target.value), value: reason }), h(C.Field.HelperText, null, lock.reason, " The reason and your name go into the audit trail."))),
        h(C.Dialog.Footer, null,
          h(C.Button, { onClick: () => setIsOpen(false), variant: "outline" }, "Keep"),
          h(C.Button, { colorPalette: "danger", disabled: needsReason && !reason.trim(), loading: isBusy, onClick: run }, "Remove")))))));
};

/** The form itself. `found` is the saved destination, or undefined for a new one. `onSaved(name)` goes on from here. */
export const Form = ({ schema, found, onSaved, onChanged, start }) => {
  const rights = useRights();
  const mayConfigure = rights.may("configure");
  const form = { ...useForm(schema, found?.settings ?? start, found?.settings.name), isExisting: Boolean(found) };
  const [open, setOpen] = useState(new Set([schema.groups[0]?.title, ...(found ? [] : [schema.groups[1]?.title])]));
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState(null);
  const box = useRef(null);
  const lock = found?.lock?.is_locked ? found.lock : null;
  const lockedNames = lock?.settings ?? [];
  const touchesLock = Object.keys(form.changed).some((name) => name in form.locked || lockedNames.includes(name));

  /** Open the groups with something wrong, and put the cursor into the first field of them. */
  const showProblems = (problems) => {
    const names = Object.keys(problems);
    form.setProblems(problems);
    form.touch(...names);
    setOpen((old) => new Set([...old, ...schema.groups.filter((g) => g.fields.some((f) => names.includes(f.name))).map((g) => g.title)]));
    announce(`${count(names.length, "field")} to mend`);
    setTimeout(() => box.current?.querySelector(`[data-setting="${names[0]}"] :is(input, select)`)?.focus(), 50);
  };

  const [save, isBusy] = useBusy(async () => {
    setProblem(null);
    try {
      const wrong = await form.check();
      if (Object.keys(wrong).length > 0) return showProblems(wrong);
      const { warnings } = found
        ? await send("PATCH", `destinations/${found.settings.name}`, { settings: form.changed, ...(touchesLock && { override_reason: reason.trim() }) })
        : await post("destinations", { settings: form.settings });
      setReason("");
      toast(warnings.length ? "warning" : "success", found ? "Saved" : `Destination ${form.settings.name} is made`, warnings.join(" "));
      onSaved(form.settings.name);
    } catch (error) {
      if (Object.keys(error.fields ?? {}).length > 0) showProblems(error.fields);
      setProblem(error);
    }
  });

  const changes = Object.keys(form.changed).length;
  return h(C.Box, { ref: box, as: "form", noValidate: true, onSubmit: (event) => { event.preventDefault(); save(); } },
    !mayConfigure && h(Note, { mb: 3, title: "You may see these settings, but not change them" }),
    lock && h(Lock, { lock, reason, onReason: setReason, isNeeded: touchesLock, mayConfigure }),
    schema.groups.map((group) =>
      h(Group, { key: group.title, group, form, disabled: !mayConfigure, isOpen: open.has(group.title), lockedNames,
        onToggle: () => setOpen((old) => new Set(old.has(group.title) ? [...old].filter((title) => title !== group.title) : [...old, group.title])) })),
    mayConfigure && h(C.Box, { mt: 4 }, h(Test, { subject: () => ({ settings: form.settings }) })),
    problem && h(Trouble, { mt: 4, problem }),
    mayConfigure && h(C.HStack, { bg: "bg", borderTopWidth: 1, bottom: "-2", gap: 3, mb: -2, mt: 4, position: "sticky", py: 3, wrap: "wrap", zIndex: 1 },
      h(C.Button, { colorPalette: "brand", disabled: (found && changes === 0) || (touchesLock && !reason.trim()), loading: isBusy, size: "sm", type: "submit" }, found ? "Save" : "Make the destination"),
      found && changes > 0 && h(C.Button, { onClick: form.reset, size: "sm", variant: "ghost" }, "Undo changes"),
      found && h(C.Text, { color: "fg.muted", fontSize: "sm" }, changes ? `${count(changes, "change")} not saved` : "All saved"),
      h(C.Spacer),
      found && h(Removal, { name: found.settings.name, lock: found.lock, onRemoved: () => onChanged("removed") })));
};

/** A destination's own page, or a new one's. */
export const DestinationForm = () => {
  const route = useRoute();
  const name = route.one("name");
  const schema = useLive("destinations/schema");
  const live = useLive(name ? `destinations/${name}` : null);
  const all = useLive(name ? "destinations" : null, {}, 3000);
  const here = all.data?.items.find((destination) => destination.name === name);
  const known = live.isFresh ? live.data : undefined;

  return h(C.Box, { mb: 2 },
    h(Go, { view: { view: "destinations" }, fontSize: "sm" }, h(Icon, { name: "left" }), "Destinations"),
    h(C.Flex, { align: "center", gap: 3, justify: "space-between", mb: 3, mt: 1, wrap: "wrap" },
      h(C.Heading, { as: "h1", size: "lg" }, name || "New destination"),
      here && h(C.HStack, { gap: 3 }, h(Go, { view: { view: "jobs", destination: name }, fontSize: "sm" }, "Its jobs"), h(Switch, { destination: here, onDone: () => { all.refresh(); live.refresh(); } }))),
    here && h(C.Box, { mb: 3 }, h(Healths, { destination: here })),
    live.problem?.status === 404
      ? h(Nothing, { title: `There is no destination ${name}`, icon: "search" })
      : h(Whole, { of: schema, what: "settings" }, (settings) =>
          name && !known
            ? live.problem ? h(Trouble, { problem: live.problem, onRetry: live.refresh }) : h(Loading, { what: name })
            : h(Form, { key: name, schema: settings, found: name ? known : undefined,
                onChanged: () => route.go({ view: "destinations" }),
                onSaved: (saved) => (saved === name || !saved ? live.refresh() : route.go({ view: "destination", name: saved })) })));
};
