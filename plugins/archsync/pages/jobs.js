/* The list of jobs: newest first, live, filtered by the address. */

import { announce, C, Go, h, Icon, Loading, Note, Nothing, Router, Rows, StatusPill, Trouble, useEffect, useRef, useState } from "./kit.js";
import { address } from "./api.js";
import { JobMenu, SelectionBar, useJobActions } from "./job_actions.js";
import { FilterBar, filterOf, StatusChips } from "./job_filters.js";
import { About, Done, JobLink, When } from "./job_parts.js";
import { useLive } from "./live.js";
import { useRoute } from "./route.js";
import { count, formatCount, formatMoment } from "./words.js";

const EVERY_MS = 1500;
const RARELY_MS = 300000;
const PAGE_SIZE = 50;

/** Tell a screen reader, once in a while, what changed in the list that the eye sees move. */
const useNews = (jobs, filterKey) => {
  const last = useRef({ filterKey: "", statuses: new Map() });
  useEffect(() => {
    if (!jobs) return;
    const statuses = new Map(jobs.map((job) => [job.job_id, job.status]));
    const before = last.current;
    if (before.filterKey === filterKey) {
      const failed = jobs.filter((job) => job.status === "failed" && before.statuses.get(job.job_id) !== "failed");
      const added = jobs.filter((job) => !before.statuses.has(job.job_id)).length;
      if (failed.length) announce(`Job ${failed.map((job) => job.job_id).join(", ")} failed`);
      else if (added) announce(`${formatCount(added)} new in the list`);
    }
    last.current = { filterKey, statuses };
  }, [jobs, filterKey]);
};

const Paging = ({ live, trail, route, filter }) => {
  const to = (cursor, newTrail) => route.go({ view: "jobs", ...filter, cursor }, { state: { trail: newTrail } });
  const cursor = route.one("cursor");
  return h(C.HStack, { as: "nav", "aria-label": "Pages of jobs", gap: 2, justify: "flex-end", mt: 3, mb: 6 },
    cursor && h(C.Button, { onClick: () => to("", []), size: "sm", variant: "ghost" }, "Newest"),
    h(C.Button, { disabled: !cursor, onClick: () => to(trail.at(-1) ?? "", trail.slice(0, -1)), size: "sm", variant: "outline" }, h(Icon, { name: "left" }), "Newer"),
    h(C.Button, { disabled: !live.data?.next_cursor || !live.isFresh, onClick: () => to(live.data.next_cursor, [...trail, cursor]), size: "sm", variant: "outline" }, "Older", h(Icon, { name: "right" })));
};

const Empty = ({ filter, known, onShowAll }) => {
  if (Object.keys(filter).length > 0)
    return h(Nothing, { title: "No job matches", icon: "search" }, h(C.Button, { mt: 2, onClick: onShowAll, size: "sm", variant: "outline" }, "Show all jobs"));
  if (known && known.destinations.length === 0)
    return h(Nothing, { title: "No archive is set up yet" }, h(Go, { view: { view: "setup" } }, "Set one up in three steps"));
  return h(Nothing, { title: "No jobs yet" }, "A job appears here as soon as a study is due at a destination.");
};

const Tick = ({ label, checked, onChange }) =>
  h(C.Checkbox.Root, { checked, onCheckedChange: (e) => onChange(e.checked === true), size: "sm" },
    h(C.Checkbox.HiddenInput, { "aria-label": label }), h(C.Checkbox.Control));

/** The status; where the screen has no room for the columns beside it, what they would say below it. */
const StatusCell = ({ job }) =>
  h(C.Box, null,
    h(StatusPill, { status: job.status }),
    h(C.Stack, { display: { base: "flex", lg: "none" }, gap: 1, mt: 1 }, h(C.Text, { fontSize: "sm" }, job.destination), h(Done, { job }), h(When, { job })),
    job.attempts > 0 && h(C.Text, { color: "fg.muted", display: { base: "block", xl: "none" }, fontSize: "xs", mt: 1 }, count(job.attempts, "try", "tries")));

export const Jobs = () => {
  const route = useRoute();
  const trail = Router.useLocation().state?.trail ?? [];
  const filter = filterOf(route);
  const { status, ...withoutStatus } = filter;
  const filterKey = JSON.stringify([filter, route.one("cursor")]);

  const live = useLive("jobs", { ...filter, cursor: route.one("cursor"), limit: PAGE_SIZE }, EVERY_MS);
  const counts = useLive("jobs/counts", withoutStatus, 2 * EVERY_MS);
  const known = useLive("filters", {}, RARELY_MS);
  useNews(live.isFresh ? live.data?.items : undefined, filterKey);

  const [ticked, setTicked] = useState(new Set());
  useEffect(() => setTicked(new Set()), [filterKey]);
  const actions = useJobActions(() => {
    setTicked(new Set());
    live.refresh();
    counts.refresh();
  });

  const narrow = (changes) => route.go({ view: "jobs", ...filter, ...changes });
  const showAll = () => route.go({ view: "jobs" });
  const found = ({ jobs, studies }) =>
    jobs.length === 1 && studies.length === 0 ? route.go({ view: "job", id: jobs[0] }) : route.go({ view: "jobs", study: studies[0]?.study_instance_uid, job: studies.length ? "" : jobs[0] });

  const items = live.data?.items ?? [];
  const selected = items.filter((job) => ticked.has(job.job_id));
  const chosen = status ?? [];
  const numbers = Object.entries(counts.data?.counts ?? {}).filter(([name]) => chosen.length === 0 || chosen.includes(name)).map(([, n]) => n);
  const isCapped = numbers.some((n) => n >= counts.data.capped_at);
  const matching = `${formatCount(numbers.reduce((a, b) => a + b, 0))}${isCapped ? "+" : ""}`;
  const tick = (ids, isOn) => setTicked((old) => new Set(isOn ? [...old, ...ids] : [...old].filter((id) => !ids.includes(id))));

  const columns = [
    ...(actions.may ? [{
      title: h(Tick, { label: "Select all jobs on this page", checked: selected.length > 0 && (selected.length === items.length || "indeterminate"), onChange: (isOn) => tick(items.map((job) => job.job_id), isOn) }),
      cell: (job) => h(Tick, { label: `Select job ${job.job_id}`, checked: ticked.has(job.job_id), onChange: (isOn) => tick([job.job_id], isOn) }),
      props: { w: 8 },
    }] : []),
    { title: "Job", cell: (job) => h(JobLink, { job }) },
    { title: "What and why", cell: (job) => h(About, { job }), props: { w: "45%" } },
    { title: "Destination", cell: (job) => job.destination, from: "lg" },
    { title: "Status", cell: (job) => h(StatusCell, { job }) },
    { title: "Progress", cell: (job) => h(Done, { job }), from: "lg" },
    { title: "Tries", cell: (job) => job.attempts || "", from: "xl", props: { textAlign: "end" } },
    { title: "When", cell: (job) => h(When, { job }), from: "lg" },
    ...(actions.may ? [{ title: h(C.VisuallyHidden, null, "Actions"), cell: (job) => h(JobMenu, { job, actions }), props: { textAlign: "end" } }] : []),
  ];

  return h(C.Box, null,
    h(FilterBar, { filter, known: known.data, onChange: narrow, onFound: found },
      h(C.Button, { asChild: true, size: "sm", variant: "outline" },
        h("a", { download: "", href: address("jobs.csv", filter), title: "The filtered list as a file for a spreadsheet" }, h(Icon, { name: "download" }), "CSV"))),
    h(StatusChips, { counts: counts.data?.counts, cappedAt: counts.data?.capped_at, chosen, onChange: (value) => narrow({ status: value }) }),
    h(C.Flex, { align: "baseline", gap: 3, justify: "space-between", my: 3 },
      h(C.Heading, { as: "h1", size: "md" }, counts.data ? `${matching} ${matching === "1" ? "job" : "jobs"}` : "Jobs"),
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, live.data && (route.one("cursor") ? "An older page, kept up to date" : "Newest first, kept up to date"))),
    live.problem && live.data && h(Note, { mb: 2, tone: "warning", title: "This list is not up to date" }, `${live.problem.detail} Shown is what was known at ${formatMoment(live.answeredAt)}; the page keeps trying.`),
    h(SelectionBar, { selected, matching, isAllPossible: selected.length === items.length && live.data?.next_cursor, filter, actions, onClear: () => setTicked(new Set()) }),
    live.data
      ? h(C.Box, { "aria-busy": !live.isFresh, opacity: live.isFresh ? 1 : 0.5, transition: "opacity 0.2s" },
          h(Rows, { label: "Jobs", columns, rows: items, keyOf: (job) => job.job_id, empty: h(Empty, { filter, known: known.data, onShowAll: showAll }), rowProps: (job) => ({ "data-job": job.job_id }) }))
      : live.problem ? h(Trouble, { problem: live.problem, onRetry: live.refresh }) : h(Loading, { what: "jobs" }),
    h(Paging, { live, trail, route, filter }),
    actions.dialog);
};
