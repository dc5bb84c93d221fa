/* Retry, cancel, move to the front: of one job, a selection, or all that a filter matches. */

import { announce, C, h, Icon, Note, toast, Trouble, useEffect, useRights, useState } from "./kit.js";
import { post } from "./api.js";
import { useBusy } from "./live.js";
import { count, formatCount } from "./words.js";

export const ACTIONS = {
  retry: { verb: "Retry", done: "to be tried again", icon: "again" },
  cancel: { verb: "Cancel", done: "cancelled", icon: "ban", asksWhy: true, isGrave: true },
  front: { verb: "Move to the front", done: "moved to the front", icon: "up" },
};

/**
 * Carry an action out to its end: the server works in batches and says where to go on.
 * @param target `{job_ids}` or `{filter}`
 * @returns `{done, skipped}`
 */
const carryOut = async (action, target, { reason, expected, onProgress }) => {
  const total = { done: 0, skipped: [] };
  let cursor = null;
  do {
    const answer = await post("jobs/actions", { action, ...target, ...(reason && { reason }), ...(cursor ? { cursor } : target.filter && { expected }) });
    total.done += answer.done;
    total.skipped.push(...answer.skipped);
    cursor = answer.next_cursor;
    onProgress?.(total.done);
  } while (cursor);
  return total;
};

const tell = (action, { done, skipped }) => {
  const { verb, done: participle } = ACTIONS[action];
  const sentence = `${count(done, "job")} ${participle}`;
  const why = skipped.slice(0, 3).map((s) => `Job ${s.job_id}: ${s.detail}`).join(" ");
  announce(sentence);
  if (done === 0) toast("warning", `${verb}: nothing was done`, why || "No job takes it any more.");
  else if (skipped.length) toast("info", `${sentence}, ${formatCount(skipped.length)} left as they were`, why);
  else toast("success", sentence);
};

const Reasoned = ({ value, onChange }) =>
  h(C.Field.Root, { required: true },
    h(C.Field.Label, null, "Why?", h(C.Field.RequiredIndicator)),
    h(C.Textarea, { autoFocus: true, maxLength: 500, onChange: (e) => onChange(e.target.value), rows: 2, value }),
    h(C.Field.HelperText, null, "Kept with the job and in the audit trail. Write no patient data here."));

/** Ask before something is done to several jobs, and show how far it is. `asked`: `{action, target, number}` or null. */
export const ActionDialog = ({ asked, onClose, onDone }) => {
  const [number, setNumber] = useState(null);
  const [reason, setReason] = useState("");
  const [progress, setProgress] = useState(0);
  const [problem, setProblem] = useState(null);

  useEffect(() => {
    setReason("");
    setProgress(0);
    setProblem(null);
    setNumber(asked?.number ?? null);
    if (asked?.target.filter)
      post("jobs/actions", { action: asked.action, ...asked.target, dry_run: true }).then((answer) => setNumber(answer.matching), setProblem);
  }, [asked]);

  const [run, isBusy] = useBusy(async () => {
    try {
      tell(asked.action, await carryOut(asked.action, asked.target, { reason: reason.trim(), expected: number, onProgress: setProgress }));
      onClose();
      onDone();
    } catch (error) {
      setProblem(error);
      onDone();
    }
  });

  if (!asked) return null;
  const { verb, asksWhy, isGrave } = ACTIONS[asked.action];
  const isReady = number > 0 && (!asksWhy || reason.trim());
  return h(C.Dialog.Root, { open: true, role: "alertdialog", size: "md", onOpenChange: ({ open }) => !open && !isBusy && onClose() },
    h(C.Portal, null,
      h(C.Dialog.Backdrop),
      h(C.Dialog.Positioner, null,
        h(C.Dialog.Content, null,
          h(C.Dialog.Header, null, h(C.Dialog.Title, null, number === null ? `${verb} …` : `${verb} ${count(number, "job")}?`)),
          h(C.Dialog.Body, null, h(C.Stack, { gap: 3 },
            problem && h(Trouble, { problem }),
            number === null && !problem && h(C.Text, null, "Counting …"),
            number === 0 && h(C.Text, null, "No job takes this at the moment."),
            asked.target.filter && number > 0 && h(C.Text, null, `These are all jobs that the filter matches and that take it, on every page.`),
            asked.action === "retry" && number > 0 && h(C.Text, null, "They wait for their turn again with their attempts counted anew. Only what the archive does not hold yet is sent."),
            asked.action === "front" && number > 0 && h(C.Text, null, "They go before all others at their destination, among each other in the order they were made."),
            asksWhy && number > 0 && h(Reasoned, { value: reason, onChange: setReason }),
            isBusy && asked.target.filter && h(C.Text, { role: "status" }, `${formatCount(progress)} of ${formatCount(number)} done …`))),
          h(C.Dialog.Footer, null,
            h(C.Button, { disabled: isBusy, onClick: onClose, variant: "outline" }, asked.action === "cancel" ? "Keep" : "Back"),
            h(C.Button, { colorPalette: isGrave ? "danger" : "brand", disabled: !isReady, loading: isBusy, onClick: run }, number > 0 ? `${verb} ${count(number, "job")}` : verb))))));
};

/**
 * The actions of a page, and its dialog.
 * @returns `{ask(action, target, number), dialog, may}`: `ask` shows the dialog, or acts at once on a single job that needs no reason.
 */
export const useJobActions = (onDone) => {
  const [asked, setAsked] = useState(null);
  const rights = useRights();
  const [act] = useBusy(async (action, target) => {
    try {
      tell(action, await carryOut(action, target, {}));
    } catch (problem) {
      toast("error", problem.title, [problem.detail, problem.nextStep].filter(Boolean).join(" "));
    }
    onDone();
  });
  return {
    may: rights.may("operate"),
    ask: (action, target, number) =>
      number === 1 && target.job_ids && !ACTIONS[action].asksWhy ? act(action, target) : setAsked({ action, target, number }),
    dialog: h(ActionDialog, { asked, onClose: () => setAsked(null), onDone }),
  };
};

/** The menu of what can be done to one job. */
export const JobMenu = ({ job, actions }) => {
  const possible = Object.keys(ACTIONS).filter((name) => job.can?.[name]);
  if (!actions.may || possible.length === 0) return null;
  return h(C.Menu.Root, { lazyMount: true, positioning: { placement: "bottom-end" }, onSelect: ({ value }) => actions.ask(value, { job_ids: [job.job_id] }, 1) },
    h(C.Menu.Trigger, { asChild: true },
      h(C.IconButton, { "aria-label": `Actions for job ${job.job_id}`, size: "xs", variant: "ghost" }, h(Icon, { name: "dots", boxSize: 4, strokeWidth: 3.5 }))),
    h(C.Portal, null, h(C.Menu.Positioner, null, h(C.Menu.Content, null,
      possible.map((name) => h(C.Menu.Item, { key: name, value: name }, h(Icon, { name: ACTIONS[name].icon }), `${ACTIONS[name].verb}${ACTIONS[name].asksWhy ? " …" : ""}`))))));
};

/** The same as buttons, for a job's own page; what the user may not do is shown, and disabled with the reason. */
export const JobButtons = ({ job, actions }) =>
  h(C.HStack, { gap: 2, wrap: "wrap" },
    Object.keys(ACTIONS).filter((name) => job.can?.[name]).map((name) =>
      h(C.Button,
        { key: name, colorPalette: name === "retry" ? "brand" : undefined, disabled: !actions.may, size: "sm", variant: name === "retry" ? "solid" : "outline",
          title: actions.may ? undefined : "You may see jobs, but not change them", onClick: () => actions.ask(name, { job_ids: [job.job_id] }, 1) },
        h(Icon, { name: ACTIONS[name].icon }), `${ACTIONS[name].verb}${ACTIONS[name].asksWhy ? " …" : ""}`)));

/** What can be done to the jobs that are ticked, or to all that match. */
export const SelectionBar = ({ selected, matching, isAllPossible, filter, actions, onClear }) => {
  const [isAll, setIsAll] = useState(false);
  const ids = selected.map((job) => job.job_id).join(" ");
  useEffect(() => setIsAll(false), [ids]);
  if (selected.length === 0) return null;
  const target = isAll ? { filter } : { job_ids: selected.map((job) => job.job_id) };
  return h(Note, { mb: 2, py: 2, title: isAll ? `All ${matching} that match the filter` : `${count(selected.length, "job")} selected`,
    actions: h(C.HStack, { gap: 2, wrap: "wrap", justify: "flex-end" },
      Object.entries(ACTIONS).map(([name, { verb, asksWhy }]) =>
        h(C.Button, { key: name, bg: "bg", size: "xs", variant: "outline", onClick: () => actions.ask(name, target, isAll ? null : selected.length) }, verb, asksWhy && " …")),
      h(C.Button, { size: "xs", variant: "ghost", onClick: onClear }, "Clear")) },
  isAllPossible && h(C.Button, { height: "auto", onClick: () => setIsAll(!isAll), size: "xs", variant: "plain", px: 0, color: "fg.info", textDecoration: "underline" },
    isAll ? "Only the jobs ticked on this page" : `Take all ${matching} that match the filter`));
};
