/* How a job is shown, in the list and wherever else it is named. */

import { Age, C, Code, Fragment, Go, h, Progress, ReasonCode, StatusPill, WRONG } from "./kit.js";
import { count, formatCount, formatSize, shortUid } from "./words.js";

export const SENDS_IMAGES = ["archive", "dicom"];

export const JobLink = ({ job, children }) =>
  h(Go, { view: { view: "job", id: job.job_id }, fontWeight: "bold", "aria-label": `Job ${job.job_id}` }, children ?? job.job_id);

export const StudyLink = ({ uid, isWhole }) => uid && h(Go, { view: { view: "studies", study: uid }, title: uid }, h(Code, null, isWhole ? uid : shortUid(uid)));

/** A sentence, with its code leading to the entry that explains it. */
export const Reason = ({ job, ...props }) =>
  job.reason
    ? h(C.Box, { color: job.status === "failed" ? WRONG : "fg.muted", fontSize: "sm", overflowWrap: "anywhere", ...props },
        job.reason, " ",
        h(ReasonCode, { code: job.reason_code, url: job.troubleshooting_url }))
    : null;

/** One job in a line: number, type, destination and status. */
export const JobLine = ({ job }) =>
  h(C.HStack, { gap: 2, wrap: "wrap" },
    h(C.Box, { fontSize: "sm" }, h(JobLink, { job }, `Job ${job.job_id}`)),
    h(C.Text, { as: "span", fontSize: "sm" }, `${job.kind_label}, ${job.destination}`),
    h(StatusPill, { status: job.status, fontSize: "xs", py: 0.5 }));

/** What is done of it, in instances and bytes. */
export const Done = ({ job }) => {
  if (job.type === "adt") return h(C.Text, { color: "fg.muted", fontSize: "sm" }, "1 message");
  if (!SENDS_IMAGES.includes(job.type)) return h(C.Text, { color: "fg.muted", fontSize: "sm", whiteSpace: "nowrap" }, `${formatCount(job.instances_total)} ${job.status === "succeeded" ? "withdrawn" : "to withdraw"}`);
  const isPartial = job.bytes_done < job.bytes_total;
  return h(C.Box, { minW: "7.5rem" },
    h(C.Text, { fontSize: "sm", whiteSpace: "nowrap" }, `${formatCount(job.instances_done)} of ${count(job.instances_total, "image")}`),
    h(Progress, { done: job.instances_done, failed: job.instances_failed, total: job.instances_total }),
    h(C.Text, { color: "fg.muted", fontSize: "xs", whiteSpace: "nowrap" },
      isPartial ? `${formatSize(job.bytes_done)} of ${formatSize(job.bytes_total)}` : formatSize(job.bytes_total),
      job.instances_failed > 0 && h(C.Text, { as: "span", color: WRONG }, ` · ${formatCount(job.instances_failed)} not stored`)));
};

/** When something happened to it last, or will happen next. */
export const When = ({ job }) => {
  const line = (label, at) => h(C.Box, { fontSize: "sm", whiteSpace: "nowrap" }, `${label} `, h(Age, { at, as: "span" }));
  const isDue = new Date(job.next_attempt_at) <= Date.now();
  return h(Fragment, null,
    job.next_attempt_at && ["waiting", "retrying"].includes(job.status) ? isDue ? h(C.Box, { fontSize: "sm", whiteSpace: "nowrap" }, "next try is due") : line("next try", job.next_attempt_at)
      : job.finished_at ? line("ended", job.finished_at)
        : job.status === "running" && job.started_at ? line("began", job.started_at) : null,
    h(C.Box, { color: "fg.muted", fontSize: "xs", whiteSpace: "nowrap" }, "made ", h(Age, { at: job.created_at, as: "span" })));
};

/** What it is about: the type, a sentence without patients, and why it stands where it stands. */
export const About = ({ job }) =>
  h(C.Box, { minW: "14rem" },
    h(C.Text, { fontSize: "sm", overflowWrap: "anywhere" }, h(C.Badge, { mr: 2, title: job.kind_label, variant: "surface" }, job.type.toUpperCase()), job.about),
    h(Reason, { job }));
