/* The attempts of a job as a timeline. */

import { C, Go, h, Icon, Moment, Nothing, ReasonCode, statusPalette } from "./kit.js";
import { count, formatSize, formatTook, words } from "./words.js";

const ICONS = { succeeded: "check", failed: "cross", retrying: "again", running: "play", waiting: "clock" };

const Details = ({ attempt }) => {
  const facts = [
    attempt.instances_done > 0 && count(attempt.instances_done, "instance"),
    attempt.bytes_done > 0 && formatSize(attempt.bytes_done),
    formatTook(attempt.started_at, attempt.finished_at),
    attempt.peer && `to ${attempt.peer}`,
    attempt.status_code && `status ${attempt.status_code}`,
    attempt.comment && `“${attempt.comment}”`,
  ].filter(Boolean);
  return h(C.Text, { color: "fg.muted", fontSize: "xs", overflowWrap: "anywhere" }, facts.join(" · "));
};

const Attempt = ({ attempt, number, isLast }) => {
  const outcome = attempt.outcome ?? "running";
  return h(C.Timeline.Item, { as: "li" },
    h(C.Timeline.Connector, null,
      !isLast && h(C.Timeline.Separator),
      h(C.Timeline.Indicator, { bg: `${statusPalette(outcome)}.solid`, color: "white" }, h(Icon, { name: ICONS[outcome] ?? "info" }))),
    h(C.Timeline.Content, { gap: 1, minW: 0, pb: 4 },
      h(C.Flex, { align: "baseline", columnGap: 3, wrap: "wrap" },
        h(C.Timeline.Title, { fontSize: "sm" }, `Attempt ${number}: ${words(outcome).toLowerCase()}`),
        h(Moment, { at: attempt.started_at, color: "fg.muted", fontSize: "sm" }),
        attempt.logs_url && h(Go, { href: attempt.logs_url, fontSize: "sm" }, "Log in Airflow")),
      attempt.reason && h(C.Text, { fontSize: "sm", overflowWrap: "anywhere" }, attempt.reason, " ",
        h(ReasonCode, { code: attempt.reason_code, url: attempt.troubleshooting_url })),
      h(Details, { attempt })));
};

/** Newest first: what is going on now is what somebody came to see. */
export const Attempts = ({ job }) => {
  const attempts = job.attempt_list ?? [];
  if (attempts.length === 0) return h(Nothing, { title: job.finished_at ? "Nothing was tried" : "Nothing was tried yet", icon: "clock" });
  return h(C.Timeline.Root, { as: "ol", size: "sm", variant: "plain" },
    attempts.map((attempt, i) => ({ attempt, number: i + 1 })).reverse().map(({ attempt, number }, i) =>
      h(Attempt, { key: attempt.attempt_id ?? number, attempt, number, isLast: i === attempts.length - 1 })));
};
