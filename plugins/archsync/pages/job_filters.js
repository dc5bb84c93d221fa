/* The filter above the list of jobs; it lives in the address. */

import { C, h, Icon, StatusPill, statusPalette, STATUS_NAMES, toastProblem, useState, WRONG } from "./kit.js";
import { post } from "./api.js";
import { useBusy } from "./live.js";
import { formatCount, shortUid, words } from "./words.js";

export const FILTER_NAMES = ["type", "status", "destination", "gateway", "facility", "since", "until", "study", "job"];
const LISTS = ["type", "status", "destination", "gateway", "facility"];

/** The filter as the address has it; empty parts left out. */
export const filterOf = (route) =>
  Object.fromEntries(FILTER_NAMES.map((name) => [name, LISTS.includes(name) ? route.all(name) : route.one(name)]).filter(([, value]) => value.length > 0));

const PERIODS = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"], ["30d", "Last 30 days"]];

/** A drop-down of which any number can be ticked. */
export const Choice = ({ label, options, chosen, onChange }) => {
  const nameOf = (value) => options.find((option) => option.value === value)?.label ?? value;
  const text = chosen.length === 0 ? label : chosen.length === 1 ? `${label}: ${nameOf(chosen[0])}` : `${label}: ${chosen.length}`;
  return h(C.Menu.Root, { closeOnSelect: false },
    h(C.Menu.Trigger, { asChild: true },
      h(C.Button, { "aria-label": `${label}: ${chosen.length ? chosen.map(nameOf).join(", ") : "all"}`, colorPalette: chosen.length ? "brand" : undefined, fontWeight: "normal", size: "sm", variant: chosen.length ? "subtle" : "outline" },
        text, h(Icon, { name: "down" }))),
    h(C.Portal, null, h(C.Menu.Positioner, null, h(C.Menu.Content, { maxH: "20rem", overflowY: "auto" },
      options.length === 0 && h(C.Text, { color: "fg.muted", fontSize: "sm", px: 2 }, "There are none yet."),
      options.map((option) =>
        h(C.Menu.CheckboxItem, { key: option.value, checked: chosen.includes(option.value), value: option.value,
          onCheckedChange: (isOn) => onChange(isOn ? [...chosen, option.value] : chosen.filter((value) => value !== option.value)) },
        h(C.Menu.ItemIndicator), option.label, option.hint && h(C.Text, { as: "span", color: "fg.muted" }, option.hint))),
      chosen.length > 0 && h(C.Menu.Item, { value: "", onClick: () => onChange([]), color: "fg.muted" }, "All")))));
};

/** Status chips with how many jobs have each: buttons that narrow the list. */
export const StatusChips = ({ counts, cappedAt, chosen, onChange }) =>
  h(C.HStack, { "aria-label": "Filter by status", gap: 2, role: "group", wrap: "wrap" },
    STATUS_NAMES.map((status) => {
      const number = counts?.[status];
      const text = number === undefined ? "" : number >= cappedAt ? `${formatCount(cappedAt)}+` : formatCount(number);
      const isOn = chosen.includes(status);
      return h(C.Button,
        { key: status, "aria-label": `${words(status)}: ${text || "counting"}`, "aria-pressed": isOn, borderRadius: "full", colorPalette: statusPalette(status), gap: 1.5, h: 8, px: 1, pr: 3, size: "sm",
          variant: isOn ? "subtle" : "outline", borderColor: isOn ? `${statusPalette(status)}.solid` : "border",
          onClick: () => onChange(isOn ? chosen.filter((s) => s !== status) : [...chosen, status]) },
        h(StatusPill, { status, fontSize: "xs", py: 0.5 }),
        h(C.Text, { as: "span", color: number === 0 ? "fg.muted" : "fg", fontVariantNumeric: "tabular-nums" }, text || "–"));
    }));

const Search = ({ onFound }) => {
  const [text, setText] = useState("");
  const [nothing, setNothing] = useState("");
  const [search, isBusy] = useBusy(async () => {
    try {
      const found = await post("search", { text: text.trim() });
      if (found.jobs.length === 0 && found.studies.length === 0) setNothing(found.is_complete ? "Nothing has this job number, accession number or Study Instance UID." : "No job or study is known by this; the platform can't be asked for accession numbers at the moment.");
      else {
        setText("");
        onFound(found);
      }
    } catch (problem) {
      toastProblem(problem);
    }
  });
  return h(C.Box, { as: "form", role: "search", flex: { base: "1 1 100%", lg: "1 1 18rem" }, maxW: { lg: "26rem" }, onSubmit: (event) => {
    event.preventDefault();
    if (text.trim()) search();
  } },
  h(C.Field.Root, { invalid: Boolean(nothing) },
    h(C.InputGroup, { startElement: isBusy ? h(C.Spinner, { size: "xs" }) : h(Icon, { name: "search" }) },
      h(C.Input, { "aria-label": "Find a job number, accession number or Study Instance UID", autoComplete: "off", onChange: (e) => { setText(e.target.value); setNothing(""); }, placeholder: "Job, accession number or Study UID", size: "sm", value: text })),
    h(C.Field.ErrorText, { color: WRONG }, nothing)));
};

const Dates = ({ filter, onChange }) => {
  const isCustom = Boolean(filter.until) || (filter.since && !PERIODS.some(([value]) => value === filter.since));
  const [isOpen, setIsOpen] = useState(isCustom);
  const local = (at) => (at && at.includes("T") ? new Date(new Date(at) - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 16) : "");
  const picked = (name) => (event) => onChange({ [name]: event.target.value ? new Date(event.target.value).toISOString() : "" });
  return h(C.HStack, { gap: 2, wrap: "wrap" },
    h(C.NativeSelect.Root, { size: "sm", width: "9.5rem" },
      h(C.NativeSelect.Field, { "aria-label": "Made when", value: isOpen || isCustom ? "custom" : filter.since ?? "", onChange: (e) => {
        setIsOpen(e.target.value === "custom");
        if (e.target.value !== "custom") onChange({ since: e.target.value, until: "" });
      } }, PERIODS.map(([value, label]) => h("option", { key: value, value }, label)), h("option", { value: "custom" }, "From … to …")),
      h(C.NativeSelect.Indicator)),
    (isOpen || isCustom) && h(C.HStack, { gap: 1 },
      h(C.Input, { "aria-label": "Made from, in this computer's time zone", onChange: picked("since"), size: "sm", type: "datetime-local", value: local(filter.since), w: "12.5rem" }),
      h(C.Text, { fontSize: "sm" }, "to"),
      h(C.Input, { "aria-label": "Made until, in this computer's time zone", onChange: picked("until"), size: "sm", type: "datetime-local", value: local(filter.until), w: "12.5rem" })));
};

const named = (list) => (list ?? []).map((item) => ({ value: item.value ?? item.name, label: item.label }));

/** Everything that narrows the list but the statuses. `known` is what there is to choose from. */
export const FilterBar = ({ filter, known, onChange, onFound, children }) => {
  const isFiltered = Object.keys(filter).length > 0;
  const choice = (name, label, options) => h(Choice, { label, options, chosen: filter[name] ?? [], onChange: (value) => onChange({ [name]: value }) });
  return h(C.Flex, { align: "flex-start", gap: 2, mb: 3, wrap: "wrap" },
    h(Search, { onFound }),
    choice("type", "Type", (known?.types ?? []).map(({ value, label }) => ({ value, label: value.toUpperCase(), hint: label }))),
    choice("destination", "Destination", named(known?.destinations)),
    named(known?.gateways).length > 0 && choice("gateway", "Gateway", named(known.gateways)),
    choice("facility", "Facility", named(known?.facilities)),
    h(Dates, { filter, onChange }),
    filter.study && h(C.Button, { "aria-label": `Only study ${filter.study}; press to show all`, colorPalette: "brand", fontWeight: "normal", onClick: () => onChange({ study: "" }), size: "sm", title: filter.study, variant: "subtle" }, `Study ${shortUid(filter.study)}`, h(Icon, { name: "cross" })),
    filter.job && h(C.Button, { "aria-label": `Only job ${filter.job}; press to show all`, colorPalette: "brand", fontWeight: "normal", onClick: () => onChange({ job: "" }), size: "sm", variant: "subtle" }, `Job ${filter.job}`, h(Icon, { name: "cross" })),
    isFiltered && h(C.Button, { onClick: () => onChange(Object.fromEntries(FILTER_NAMES.map((name) => [name, ""]))), size: "sm", variant: "ghost" }, "Show all"),
    h(C.Spacer), children);
};
