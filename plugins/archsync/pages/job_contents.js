/* What a job is made of: instances, rejection notes as evidence, and HL7 messages. */

import { C, Code, Facts, h, Icon, Moment, Nothing, Pager, Rows, Section, StatusPill, toastProblem, useState, Whole } from "./kit.js";
import { post } from "./api.js";
import { useBusy, useLive } from "./live.js";
import { count, formatCount, formatMoment } from "./words.js";

const Uid = ({ children }) => h(Code, null, children);

export const Failures = ({ job }) =>
  h(C.Box, null,
    h(Rows, { label: "Instances not stored", keyOf: (f) => f.sop_instance_uid, rows: job.failures, columns: [
      { title: "SOP Instance UID", cell: (f) => h(Uid, null, f.sop_instance_uid) },
      { title: "Status", cell: (f) => f.store_status },
      { title: "Code", cell: (f) => h(Code, null, f.code), from: "md" },
      { title: "What the archive said", cell: (f) => f.message },
    ] }),
    job.failures_total > job.failures.length && h(C.Text, { color: "fg.muted", fontSize: "sm", mt: 1 }, `The first ${formatCount(job.failures.length)} of ${formatCount(job.failures_total)} are shown.`));

// Instances: asked for only when somebody wants to see them.

const INSTANCE_STATES = { stored: "succeeded", rejected: "suppressed", failed: "failed", waiting: "waiting" };

const InstanceTable = ({ job }) => {
  const [trail, setTrail] = useState([""]);
  const live = useLive(`jobs/${job.job_id}/instances`, { cursor: trail.at(-1), limit: 50 }, job.status === "running" ? 3000 : 0);
  return h(Whole, { of: live, what: "instances" }, (page) =>
    h(C.Box, null,
      h(Rows, { label: "Instances", rows: page.items, keyOf: (i) => i.sop_instance_uid, empty: h(Nothing, { title: "No instances are known" }), columns: [
        { title: "SOP Instance UID", cell: (i) => h(Uid, null, i.sop_instance_uid) },
        { title: "Status", cell: (i) => h(StatusPill, { status: INSTANCE_STATES[i.status] ?? i.status, label: i.status, fontSize: "xs", py: 0.5 }) },
        { title: "When", cell: (i) => h(Moment, { at: i.stored_at }), from: "lg" },
        { title: "What the archive said", cell: (i) => [i.store_status, i.message].filter(Boolean).join(" · "), from: "md" },
      ] }),
      !page.is_complete && h(C.Text, { color: "fg.warning", fontSize: "sm", mt: 1 }, "The platform can't be asked at the moment: what is still to be sent is missing here."),
      h(Pager, { trail, onTrail: setTrail, next: page.next_cursor })));
};

export const Instances = ({ job }) => {
  const [isOpen, setIsOpen] = useState(false);
  return h(Section, { title: "Instances", actions: h(C.Button, { "aria-expanded": isOpen, onClick: () => setIsOpen(!isOpen), size: "xs", variant: "outline" }, isOpen ? "Hide" : `Show ${count(job.instances_total, "instance")}`) },
    isOpen && h(InstanceTable, { job }));
};

// Rejection notes

const Series = ({ series }) =>
  h(C.Box, { as: "li", fontSize: "sm", mb: 1 },
    "Series ", h(Uid, null, series.series_instance_uid), `: ${count(series.instances, "instance")}`,
    h(C.Box, { as: "ul", color: "fg.muted", fontSize: "xs", listStyleType: "none", pl: 4 },
      series.sop_instance_uids.map((uid) => h("li", { key: uid }, h(Uid, null, uid))),
      series.instances > series.sop_instance_uids.length && h("li", null, `and ${formatCount(series.instances - series.sop_instance_uids.length)} more`)));

const Note = ({ note }) =>
  h(C.Box, { borderWidth: 1, borderRadius: "md", mb: 3, p: 3 },
    h(C.Text, { fontSize: "sm", fontWeight: "bold", mb: 2 }, `${note.title_meaning} (${note.title})`),
    h(Facts, { rows: [
      ["Rejection note", h(Uid, null, note.sop_instance_uid)],
      ["Names", `${count(note.instances, "instance")} of study ${note.study_instance_uid}`],
      ["Built", h(Moment, { at: note.built_at })],
      ["Stored", note.stored_at ? `${formatMoment(note.stored_at)}, status ${note.store_status}` : "not yet"],
    ], columns: { base: 1, lg: 2 } }),
    note.series === null
      ? h(C.Text, { color: "fg.muted", fontSize: "sm", mt: 2 }, "Its content is no longer kept.")
      : h(C.Box, { as: "ul", listStyleType: "none", mt: 3 }, note.series.map((series) => h(Series, { key: series.series_instance_uid, series }))));

export const Notes = ({ notes }) => notes.map((note) => h(Note, { key: note.note_id, note }));

// HL7 messages: masked until somebody with the right asks, which is audited.

const Text = ({ children }) =>
  h(C.Box, { as: "pre", bg: "bg.muted", borderRadius: "md", fontFamily: "mono", fontSize: "xs", mt: 2, overflowX: "auto", p: 3, tabIndex: 0, "aria-label": "Text of the message" },
    children.replaceAll("\r", "\n"));

const Message = ({ message, unmasked }) =>
  h(C.Box, null,
    h(Facts, { rows: [
      ["Trigger", message.trigger],
      ["Control id", h(Code, null, message.control_id)],
      ["First sent", message.sent_at ? h(Moment, { at: message.sent_at }) : "not yet"],
      ["Acknowledged", message.acknowledged_at ? `${formatMoment(message.acknowledged_at)} (${message.ack_code})` : "not yet"],
    ] }),
    unmasked ?? message.text_masked ? h(Text, null, unmasked ?? message.text_masked) : h(C.Text, { color: "fg.muted", fontSize: "sm", mt: 2 }, "Its content is no longer kept."));

export const Messages = ({ job, maySeePatients }) => {
  const [texts, setTexts] = useState(null);
  const [reveal, isBusy] = useBusy(async () => {
    try {
      const answer = await post(`jobs/${job.job_id}/message`, { phi: true });
      setTexts(answer.messages.map((message) => message.text));
    } catch (problem) {
      toastProblem(problem);
    }
  });
  const hasText = job.messages.some((message) => message.text_masked);
  return h(C.Box, null,
    job.messages.map((message, i) => h(Message, { key: message.control_id, message, unmasked: texts?.[i] })),
    hasText && maySeePatients && h(C.HStack, { gap: 3, mt: 2 },
      h(C.Button, { loading: isBusy, onClick: () => (texts ? setTexts(null) : reveal()), size: "xs", variant: "outline" }, h(Icon, { name: "eye" }), texts ? "Mask again" : "Show patient data"),
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, "That you looked is recorded.")));
};
