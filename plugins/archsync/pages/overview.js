/* How it goes as a whole: outages first, then what was done, and what is left to do. */

import { Age, C, Go, h, Note, Nothing, ReasonCode, Rows, Section, STATUS_NAMES, StatusPill, Whole, WRONG } from "./kit.js";
import { Bar, Chart } from "./charts.js";
import { useLive } from "./live.js";
import { count, formatCount, formatMoment } from "./words.js";

const PEERS = { archive: "does not take images and rejection notes", adt: "does not take HL7 messages" };

export const Outages = ({ outages }) =>
  outages.length === 0
    ? h(Note, { tone: "success", title: "Every archive that is switched on can be reached" })
    : h(C.Stack, { gap: 2 }, outages.map((outage) =>
        h(Note, { key: `${outage.destination} ${outage.kind}`, tone: "error", title: h(C.Box, { as: "span" },
          h(Go, { view: { view: "destination", name: outage.destination } }, outage.destination), ` ${PEERS[outage.kind]}, since `, h(Age, { at: outage.since, as: "span" })) },
        outage.reason, " ", h(ReasonCode, { code: outage.reason_code, url: outage.troubleshooting_url }))));

/** The numbers of jobs by status, as links to them. */
export const Totals = ({ totals }) =>
  h(C.HStack, { gap: 4, wrap: "wrap" }, STATUS_NAMES.filter((status) => totals[status] !== undefined).map((status) =>
    h(Go, { key: status, view: { view: "jobs", status }, color: "fg" },
      h(C.HStack, { gap: 1.5 }, h(StatusPill, { status, fontSize: "xs", py: 0.5 }), h(C.Text, { as: "span", fontSize: "sm", fontVariantNumeric: "tabular-nums" }, formatCount(totals[status]))))));

const atLeast = (row, n) => `${formatCount(n)}${row.is_capped ? "+" : ""}`;

/** How many jobs ended in each of the last hours, as a chart. */
export const Hours = ({ rows }) => {
  const statuses = STATUS_NAMES.filter((status) => rows.some((row) => row.counts[status]));
  const all = rows.flatMap((row) => Object.values(row.counts)).reduce((a, b) => a + b, 0);
  if (all === 0) return h(Section, { title: "Jobs that ended, per hour" }, h(Nothing, { title: "No job ended in the last two days" }));
  return h(Chart, { title: "Jobs that ended, per hour", nameOfRow: "Hour", everyLabel: 6, statuses,
    summary: `Jobs that ended in each of the last ${rows.length} hours, by status: ${statuses.map((s) => `${formatCount(rows.reduce((sum, r) => sum + (r.counts[s] ?? 0), 0))} ${s}`).join(", ")}. The button "As a table" shows the numbers.`,
    rows: rows.map((row) => ({ title: formatMoment(row.hour).slice(0, 16), label: formatMoment(row.hour).slice(11, 16), counts: row.counts })) });
};

const Backlog = ({ backlog }) => {
  const age = (row) => (row.oldest_waiting_at ? Math.max(0, Date.now() - new Date(row.oldest_waiting_at)) : 0);
  const oldest = Math.max(...backlog.map(age), 1);
  return h(Section, { title: "Backlog" }, h(Rows, { label: "Backlog per destination", rows: backlog, keyOf: (row) => row.destination,
    empty: h(Nothing, { title: "No archive is set up yet" }, h(Go, { view: { view: "setup" } }, "Set one up in three steps")),
    columns: [
      { title: "Destination", cell: (row) => h(Go, { view: { view: "destination", name: row.destination }, fontWeight: "bold" }, row.destination) },
      { title: "Age of the oldest that waits", cell: (row) => h(Bar, { share: age(row) / oldest, palette: "up_for_retry" }, row.oldest_waiting_at ? h(Age, { at: row.oldest_waiting_at, as: "span" }) : row.waiting ? "all under way" : "nothing to do"), props: { w: "40%" } },
      { title: "Waiting", cell: (row) => h(Go, { view: { view: "jobs", destination: row.destination, status: ["waiting", "ready", "retrying"] } }, atLeast(row, row.waiting)), props: { textAlign: "end" } },
      { title: "Running", cell: (row) => atLeast(row, row.running), props: { textAlign: "end" }, from: "md" },
      { title: "Failed", cell: (row) => (row.failed ? h(Go, { view: { view: "jobs", destination: row.destination, status: "failed" }, color: WRONG }, atLeast(row, row.failed)) : "0"), props: { textAlign: "end" } },
    ] }));
};

export const Overview = () => {
  const live = useLive("overview", {}, 5000);
  return h(C.Box, { mb: 8 },
    h(C.Heading, { as: "h1", size: "md", mb: 3 }, "Overview"),
    h(Whole, { of: live, what: "the overview" }, (overview) =>
      h(C.Box, null,
        h(Outages, { outages: overview.outages }),
        h(Section, { title: "Jobs to be done" }, h(Totals, { totals: overview.totals })),
        h(Hours, { rows: overview.jobs_per_hour }),
        h(Backlog, { backlog: overview.backlog }))));
};

/** In a few lines, for Airflow's dashboard. */
export const Summary = ({ overview }) => {
  const failed = overview.backlog.reduce((sum, row) => sum + row.failed, 0);
  const waiting = overview.backlog.reduce((sum, row) => sum + row.waiting, 0);
  const oldest = overview.backlog.map((row) => row.oldest_waiting_at).filter(Boolean).sort()[0];
  return h(C.Stack, { gap: 3 },
    h(Outages, { outages: overview.outages }),
    h(C.HStack, { fontSize: "sm", gap: 6, wrap: "wrap" },
      h(Go, { view: { view: "jobs", status: ["waiting", "ready", "retrying"] } }, `${count(waiting, "job")} to do`),
      oldest && h(C.Text, { as: "span", color: "fg.muted" }, "the oldest made ", h(Age, { at: oldest, as: "span" })),
      h(Go, { view: { view: "jobs", status: "failed" }, color: failed ? WRONG : "fg.info" }, `${count(failed, "job")} failed`),
      h(Go, { view: { view: "overview" } }, "Overview")));
};
