/* One job: why it stands where it stands, what was tried, and what it is made of. */

import { C, Facts, Fragment, Go, h, Icon, Moment, Note, Nothing, Out, Router, Section, StatusPill, useRights, Whole } from "./kit.js";
import { JobButtons, useJobActions } from "./job_actions.js";
import { Attempts } from "./job_attempts.js";
import { Failures, Instances, Messages, Notes } from "./job_contents.js";
import { Done, JobLine, SENDS_IMAGES, StudyLink } from "./job_parts.js";
import { useLive } from "./live.js";
import { useRoute } from "./route.js";
import { words } from "./words.js";

const EVERY_MS = 1500;
const TONES = { failed: "error", retrying: "warning", waiting: "info", suppressed: "neutral", cancelled: "neutral" };

/** The reason in a sentence, what to do, and where it is explained. */
const Why = ({ job }) => {
  const title = job.reason ?? (job.status === "running" ? "It is under way." : null);
  if (!title || job.status === "succeeded") return null;
  return h(Note, { tone: TONES[job.status] ?? "info", title, mt: 3, "data-testid": "reason" },
    job.next_step && h("div", null, h("b", null, "What to do: "), job.next_step),
    job.blocked_by && h("div", null, "It waits for ", h(Go, { view: { view: "job", id: job.blocked_by } }, `job ${job.blocked_by}`), "."),
    job.troubleshooting_url && h("div", null, h(Out, { href: job.troubleshooting_url }, `All about ${job.reason_code}`)));
};

const Lines = ({ jobs }) => h(C.Stack, { gap: 1 }, jobs.map((job) => h(JobLine, { key: job.job_id, job })));

/** The jobs it belongs to, waits for, or keeps waiting. */
const Relatives = ({ job }) => {
  const rows = [
    ["It is a step of", job.parent && [job.parent]],
    ["Its steps", job.steps],
    ["It is blocked by", job.blocker && [job.blocker]],
    ["It goes after", job.depends_on],
    ["It keeps waiting", job.blocks],
  ].filter(([, jobs]) => jobs?.length);
  return rows.length > 0 && h(Section, { title: "Other jobs" }, h(Facts, { rows: rows.map(([label, jobs]) => [label, h(Lines, { jobs })]), columns: { base: 1, lg: 2 } }));
};

/** A change is carried out by its steps; nothing is tried for it itself. */
const isInSteps = (job) => job.type === "iocm";

const factsOf = (job) => [
  ["Destination", h(Go, { view: { view: "destination", name: job.destination } }, job.destination)],
  ["Study", job.study_instance_uid && h(StudyLink, { uid: job.study_instance_uid, isWhole: true })],
  ["Facility", job.facility],
  ["Gateway", job.gateway],
  ["Priority", job.priority && words(String(job.priority).toLowerCase())],
  ["Progress", job.type === "adt" ? null : h(C.Box, { maxW: "14rem" }, h(Done, { job }))],
  ["Turn", job.is_in_front && "moved to the front"],
  ["Attempts counted", !isInSteps(job) && job.attempts],
  ["Next attempt", job.next_attempt_at && ["waiting", "retrying"].includes(job.status) && h(Moment, { at: job.next_attempt_at })],
  ["Made", h(Moment, { at: job.created_at })],
  ["First started", job.started_at && h(Moment, { at: job.started_at })],
  ["Ended", job.finished_at && h(Moment, { at: job.finished_at })],
  ["Asked for by", job.requested_by],
  ["Decided by", job.decided_by],
  ["Taken over by", job.superseded_by && h(Go, { view: { view: "job", id: job.superseded_by } }, `job ${job.superseded_by}`)],
  ["In Airflow", job.run_url && h(Go, { href: job.run_url }, "Its run")],
];

/** A job's own view; also what the tab of an Airflow task instance shows. */
export const Job = ({ live }) => {
  const rights = useRights();
  const actions = useJobActions(live.refresh);
  return h(Whole, { of: live, what: "the job" }, (job) =>
    h(Fragment, null,
      h(C.Flex, { align: "center", gap: 3, justify: "space-between", wrap: "wrap" },
        h(C.HStack, { gap: 3, wrap: "wrap" },
          h(C.Heading, { as: "h1", size: "lg" }, `Job ${job.job_id} · ${job.kind_label}`),
          h(StatusPill, { status: job.status })),
        h(JobButtons, { job, actions })),
      job.about && h(C.Text, { color: "fg.muted", mt: 1, overflowWrap: "anywhere" }, job.about),
      h(Why, { job }),
      h(Section, { title: "Facts" }, h(Facts, { rows: factsOf(job) })),
      !isInSteps(job) && h(Section, { title: "Attempts" }, h(Attempts, { job })),
      h(Relatives, { job }),
      job.failures?.length > 0 && h(Section, { title: "Not stored" }, h(Failures, { job })),
      job.notes?.length > 0 && h(Section, { title: "Rejection notes" }, h(Notes, { notes: job.notes })),
      job.messages?.length > 0 && h(Section, { title: "HL7 message" }, h(Messages, { job, maySeePatients: rights.may("patient_data") })),
      SENDS_IMAGES.includes(job.type) && h(Instances, { job }),
      actions.dialog));
};

export const JobPage = () => {
  const route = useRoute();
  const navigate = Router.useNavigate();
  const id = Number(route.one("id"));
  const live = useLive(Number.isSafeInteger(id) && id > 0 ? `jobs/${id}` : null, {}, EVERY_MS);
  // Opened from the list, "back" returns to the same filter and page of it. The router counts its own steps here.
  const cameFromList = globalThis.history.state?.idx > 0;
  return h(C.Box, { mb: 8 },
    h(C.Button, { mb: 2, onClick: () => (cameFromList ? navigate(-1) : route.go({ view: "jobs" })), px: 1, size: "xs", variant: "ghost" }, h(Icon, { name: "left" }), "Back"),
    live.problem?.status === 404 || !(id > 0)
      ? h(Nothing, { title: `There is no job ${route.one("id")}`, icon: "search" }, h(Go, { view: { view: "jobs" } }, "All jobs"))
      : h(Job, { live }));
};
