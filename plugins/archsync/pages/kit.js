/* The few building bricks of every page, on Airflow's own React and Chakra UI (globals of its page). */

import { pathTo } from "./route.js";
import { formatAge, formatMoment, words } from "./words.js";

export const { createElement, Fragment, useCallback, useContext, useEffect, useMemo, useRef, useState } = globalThis.React;
export const C = globalThis.ChakraUI;
export const Router = globalThis.ReactRouterDOM;

/** Make an element: `h(C.Box, {p: 2}, "text")`. */
export const h = createElement;

// Statuses: each has the colour Airflow gives to its nearest state, an icon and a word. Never colour alone.

const ICONS = {
  check: "M4 12.5l5 5L20 6.5",
  cross: "M6 6l12 12M18 6L6 18",
  clock: "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18zM12 7v5l3.5 2",
  queue: "M5 6h14M5 12h14M5 18h9",
  play: "M8 5l11 7l-11 7z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
  ban: "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18zM5.8 5.8l12.4 12.4",
  skip: "M5 5l8 7l-8 7zM18 5v14",
  left: "M15 5l-7 7l7 7",
  right: "M9 5l7 7l-7 7",
  up: "M12 19V5M5 12l7-7l7 7",
  down: "M6 9l6 6l6-6",
  dots: "M12 5v.01M12 12v.01M12 19v.01",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
  plus: "M12 5v14M5 12h14",
  download: "M12 4v11M7 11l5 5l5-5M5 20h14",
  eye: "M2 12s3.5-6.5 10-6.5S22 12 22 12s-3.5 6.5-10 6.5S2 12 2 12zM12 9.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 0 0 0-5z",
  lock: "M6 11h12v9H6zM8.5 11V7.5a3.5 3.5 0 0 1 7 0V11",
  pause: "M8 5v14M16 5v14",
  warning: "M12 4L2.5 20h19zM12 10v4.5M12 17.3v.01",
  info: "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18zM12 11v6M12 7.2v.01",
};

/** A drawing beside a word; hidden from screen readers, which have the word. */
export const Icon = ({ name, ...props }) =>
  h(
    C.Box,
    { as: "svg", "aria-hidden": true, boxSize: "1em", fill: "none", flexShrink: 0, focusable: false, viewBox: "0 0 24 24",
      stroke: "currentColor", strokeLinecap: "round", strokeLinejoin: "round", strokeWidth: 2.2, ...props },
    h("path", { d: ICONS[name] }),
  );

const STATUSES = {
  waiting: { palette: "scheduled", icon: "clock" },
  ready: { palette: "queued", icon: "queue" },
  running: { palette: "running", icon: "play" },
  retrying: { palette: "up_for_retry", icon: "again" },
  succeeded: { palette: "success", icon: "check" },
  failed: { palette: "failed", icon: "cross" },
  suppressed: { palette: "skipped", icon: "skip" },
  cancelled: { palette: "removed", icon: "ban" },
};
export const STATUS_NAMES = Object.keys(STATUSES);
export const statusPalette = (status) => STATUSES[status]?.palette ?? "none";

// Airflow's own shades of these are too light for small white letters.
const DARKER = { running: "cyan.700", up_for_retry: "yellow.700" };

/** The colour of words about what went wrong; Airflow's `fg.error` is too light for small ones on white. */
export const WRONG = { base: "red.700", _dark: "fg.error" };

/** A pill like Airflow's own for states. */
export const Pill = ({ palette, icon, children, ...props }) =>
  h(
    C.Badge,
    { bg: DARKER[palette], borderRadius: "full", color: `${palette}.contrast`, colorPalette: palette, fontSize: "sm", gap: 1, px: 2, py: 1,
      variant: "solid", whiteSpace: "nowrap", ...props },
    icon && h(Icon, { name: icon }),
    children,
  );

export const StatusPill = ({ status, label, ...props }) =>
  h(Pill, { palette: statusPalette(status), icon: STATUSES[status]?.icon, "data-status": status, ...props },
    label ?? words(status));

// Time

const ticking = new Set();
setInterval(() => document.hidden || ticking.forEach((wake) => wake()), 1000);

/** How long ago (or in how long) something is, kept true; the exact moment in a tooltip. */
export const Age = ({ at, ...props }) => {
  const [, wake] = useState(0);
  useEffect(() => {
    const tick = () => wake((n) => n + 1);
    ticking.add(tick);
    return () => ticking.delete(tick);
  }, []);
  return at ? h(C.Box, { as: "time", dateTime: at, title: formatMoment(at), whiteSpace: "nowrap", ...props }, formatAge(at)) : null;
};

/** A moment in the time zone chosen in Airflow. */
export const Moment = ({ at, ...props }) =>
  at ? h(C.Box, { as: "time", dateTime: at, whiteSpace: "nowrap", ...props }, formatMoment(at)) : null;

// Words for loading, nothing, and trouble

export const Loading = ({ what }) =>
  h(C.HStack, { color: "fg.muted", py: 8, justifyContent: "center", role: "status" }, h(C.Spinner, { size: "sm" }), `Loading ${what} …`);

export const Nothing = ({ title, children, icon = "info" }) =>
  h(C.EmptyState.Root, { size: "sm" },
    h(C.EmptyState.Content, null,
      h(C.EmptyState.Indicator, null, h(Icon, { name: icon })),
      h(C.VStack, { textAlign: "center" },
        h(C.EmptyState.Title, null, title),
        children && h(C.EmptyState.Description, { as: "div" }, children))));

export const Note = ({ tone = "info", title, children, actions, ...props }) =>
  h(C.Alert.Root, { status: tone, alignItems: "flex-start", ...props },
    h(C.Alert.Indicator),
    h(C.Alert.Content, { css: { "& a": { color: "inherit", textDecoration: "underline" } }, minW: 0 },
      title && h(C.Alert.Title, null, title),
      children && h(C.Alert.Description, { as: "div", overflowWrap: "anywhere" }, children)),
    actions);

/** What went wrong with a request, and what can be done; with a button to try again. */
export const Trouble = ({ problem, onRetry, ...props }) =>
  h(Note,
    { tone: "error", title: problem.title, role: "alert", ...props,
      actions: onRetry && h(C.Button, { size: "xs", variant: "outline", onClick: onRetry }, "Try again") },
    h("div", null, problem.detail),
    problem.nextStep && h("div", null, problem.nextStep));

/** Show `children(data)` of a live request, or words while there is none. */
export const Whole = ({ of, what, children }) => {
  if (of.data === undefined) return of.problem ? h(Trouble, { problem: of.problem, onRetry: of.refresh }) : h(Loading, { what });
  return h(Fragment, null,
    of.problem && h(Note, { tone: "warning", title: "This is not up to date", mb: 3 },
      `${of.problem.detail} Shown is what was known at ${formatMoment(of.answeredAt)}; the page keeps trying.`),
    children(of.data));
};

// Links

/** Where Airflow itself is mounted: empty, unless a proxy serves it below a path. */
const AIRFLOW_PATH = new URL(document.baseURI).pathname.replace(/\/$/, "");

/** A link within Airflow, without loading the page anew: to one of our views (see `route.js`) or a page of Airflow. */
export const Go = ({ view, href, children, ...props }) =>
  h(C.Link, { asChild: true, color: "fg.info", ...props },
    h(Router.Link, { to: view ? pathTo(view) : href.startsWith(AIRFLOW_PATH) ? href.slice(AIRFLOW_PATH.length) : href }, children));

export const Out = ({ href, children, ...props }) =>
  h(C.Link, { color: "fg.info", href, target: "_blank", rel: "noopener noreferrer", ...props }, children,
    h(C.VisuallyHidden, null, " (opens in a new tab)"));

export const Code = (props) => h(C.Box, { as: "code", fontFamily: "mono", fontSize: "0.92em", overflowWrap: "anywhere", ...props });

/** The stable code of a reason, leading to the entry that explains it. */
export const ReasonCode = ({ code, url }) => {
  if (!code) return null;
  const text = h(Code, { whiteSpace: "nowrap" }, code);
  return url ? h(Out, { href: url, "aria-label": `What to do about ${code}` }, text) : text;
};

// Layout

export const Section = ({ title, actions, children, ...props }) =>
  h(C.Box, { as: "section", "aria-label": title, mt: 6, ...props },
    h(C.Flex, { align: "center", justify: "space-between", gap: 2, mb: 2, wrap: "wrap" },
      h(C.Heading, { as: "h2", size: "sm" }, title), actions),
    children);

/** Facts as label and value; those without a value are left out. */
export const Facts = ({ rows, columns = { base: 1, md: 2, xl: 3 } }) =>
  h(C.SimpleGrid, { as: "dl", columns, columnGap: 8, rowGap: 3 },
    rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false).map(([label, value]) =>
      h(C.Box, { key: label, minW: 0 },
        h(C.Box, { as: "dt", color: "fg.muted", fontSize: "xs" }, label),
        h(C.Box, { as: "dd", fontSize: "sm", overflowWrap: "anywhere" }, value))));

/**
 * A table like Airflow's.
 * @param columns `{title, cell: row => node, from: the narrowest screen that shows it ("md", "lg", "xl"), props}`
 */
export const Rows = ({ label, columns, rows, keyOf, rowProps = () => ({}), empty }) => {
  if (rows.length === 0 && empty) return empty;
  const shown = ({ from, props }) => ({ ...(from && { display: { base: "none", [from]: "table-cell" } }), ...props });
  return h(C.Box, { overflowX: "auto", position: "relative" },
    h(C.Table.Root, { "aria-label": label, size: "sm", striped: true },
      h(C.Table.Header, null, h(C.Table.Row, null, columns.map((column, i) =>
        h(C.Table.ColumnHeader, { key: i, ...shown(column), whiteSpace: "nowrap" }, column.title)))),
      h(C.Table.Body, null, rows.map((row, i) =>
        h(C.Table.Row, { key: keyOf(row, i), ...rowProps(row) }, columns.map((column, j) =>
          h(C.Table.Cell, { key: j, verticalAlign: "top", ...shown(column) }, column.cell(row, i))))))));
};

/** Previous and next of a list in pages. `trail`: the cursors of the pages that led here, the first is "". */
export const Pager = ({ trail, onTrail, next }) =>
  (trail.length > 1 || next) && h(C.HStack, { gap: 2, justify: "flex-end", mt: 2 },
    h(C.Button, { disabled: trail.length === 1, onClick: () => onTrail(trail.slice(0, -1)), size: "xs", variant: "outline" }, "Previous"),
    h(C.Button, { disabled: !next, onClick: () => onTrail([...trail, next]), size: "xs", variant: "outline" }, "Next"));

/** Instances or bytes done of all, as a bar with words. */
export const Progress = ({ done, failed, total }) =>
  h(C.Box, { "aria-hidden": true, bg: "bg.emphasized", borderRadius: "full", display: "flex", h: "1.5", overflow: "hidden", w: "full" },
    h(C.Box, { bg: "success.solid", h: "full", w: total ? `${(100 * done) / total}%` : 0 }),
    h(C.Box, { bg: "failed.solid", h: "full", w: total && failed ? `${(100 * failed) / total}%` : 0 }));

// Words for everybody: toasts for the eye, a live region for the ear

const toaster = C.createToaster({ pauseOnPageIdle: true, placement: "bottom-end" });
export const toast = (type, title, description) => toaster.create({ type, title, description });
export const toastProblem = (problem) =>
  toast("error", problem.title, [problem.detail, problem.nextStep].filter(Boolean).join(" "));

export const Toasts = () =>
  h(C.Portal, null, h(C.Toaster, { toaster, insetInline: { mdDown: 4 } }, (message) =>
    h(C.Toast.Root, { width: { md: "sm" } },
      h(C.Toast.Indicator),
      h(C.Stack, { flex: 1, gap: 1, maxW: "100%" },
        h(C.Toast.Title, null, message.title),
        message.description && h(C.Toast.Description, { overflowWrap: "anywhere" }, message.description)),
      h(C.Toast.CloseTrigger))));

let speak = () => {};
/** Have a screen reader say something that is only seen otherwise. */
export const announce = (text) => speak(text);
export const LiveRegion = () => {
  const [text, setText] = useState("");
  speak = setText;
  return h(C.VisuallyHidden, { role: "status", "aria-live": "polite" }, text);
};

// Rights of the user, as the server told them

export const Rights = globalThis.React.createContext({ user: "", may: () => false });
export const useRights = () => useContext(Rights);
