/* The archives: how each is doing. */

import { Age, C, Fragment, Go, h, Icon, Nothing, Pill, ReasonCode, Rows, toast, toastProblem, useRights, Whole, WRONG } from "./kit.js";
import { post } from "./api.js";
import { useBusy, useLive } from "./live.js";
import { count, formatCount, formatSize } from "./words.js";

const EVERY_MS = 3000;
const PEERS = { archive: "Images", iocm: "Rejection notes", adt: "HL7 messages" };
const STATES = {
  reachable: { palette: "success", icon: "check", label: "Reachable" },
  down: { palette: "failed", icon: "cross", label: "Down" },
  suspended: { palette: "up_for_retry", icon: "pause", label: "Suspended" },
  unknown: { palette: "none", icon: "clock", label: "Not tried yet" },
};

/** One way to an archive: reachable, or since when not and why. */
export const Health = ({ health }) => {
  const { palette, icon, label } = STATES[health.state] ?? STATES.unknown;
  return h(C.Box, { mb: 1 },
    h(C.HStack, { gap: 2, wrap: "wrap" },
      h(Pill, { palette, icon, fontSize: "xs", py: 0.5 }, label),
      h(C.Text, { as: "span", fontSize: "sm" }, PEERS[health.kind] ?? health.kind),
      health.since && health.state !== "reachable" && h(C.Text, { as: "span", color: "fg.muted", fontSize: "xs" }, "since ", h(Age, { at: health.since, as: "span" }))),
    health.reason && h(C.Text, { color: health.state === "down" ? WRONG : "fg.muted", fontSize: "sm", overflowWrap: "anywhere" }, health.reason, " ",
      h(ReasonCode, { code: health.reason_code, url: health.troubleshooting_url })),
    health.probe_at && health.state === "down" && h(C.Text, { color: "fg.muted", fontSize: "xs" },
      new Date(health.probe_at) > Date.now() ? h(Fragment, null, "tried again ", h(Age, { at: health.probe_at, as: "span" })) : "about to be tried again"));
};

/** How an archive is doing on every way that leads to it. */
export const Healths = ({ destination }) =>
  h(Fragment, null,
    !destination.enabled && h(Pill, { palette: "removed", icon: "pause", fontSize: "xs", mb: 1, py: 0.5 }, "Switched off"),
    destination.health.map((health) => h(Health, { key: health.kind, health })));

/** The button that switches an archive on or off. */
export const Switch = ({ destination, onDone }) => {
  const rights = useRights();
  const [run, isBusy] = useBusy(async () => {
    try {
      await post(`destinations/${destination.name}/${destination.enabled ? "disable" : "enable"}`);
      toast("success", `${destination.name} is switched ${destination.enabled ? "off: its jobs wait" : "on"}`);
    } catch (problem) {
      toastProblem(problem);
    }
    onDone();
  });
  return rights.may("configure") &&
    h(C.Button, { "aria-label": `Switch ${destination.name} ${destination.enabled ? "off" : "on"}`, loading: isBusy, onClick: run, size: "xs", variant: "outline" }, destination.enabled ? "Switch off" : "Switch on");
};

const Queue = ({ destination }) => {
  const jobs = (status, text) => h(Go, { view: { view: "jobs", destination: destination.name, status } }, text);
  return h(C.Box, { fontSize: "sm" },
    h("div", null, destination.queue_depth ? jobs(["waiting", "ready", "retrying"], `${formatCount(destination.queue_depth)}${destination.is_capped ? "+" : ""} to do`) : "Nothing to do"),
    destination.oldest_waiting_at && h(C.Box, { color: "fg.muted", fontSize: "xs" }, "oldest made ", h(Age, { at: destination.oldest_waiting_at, as: "span" })),
    destination.running > 0 && h("div", null, jobs("running", `${formatCount(destination.running)} running`)),
    destination.failed > 0 && h("div", null, h(Go, { view: { view: "jobs", destination: destination.name, status: "failed" }, color: WRONG }, `${formatCount(destination.failed)} failed`)));
};

const Throughput = ({ of }) =>
  h(C.Box, { fontSize: "sm", whiteSpace: "nowrap" },
    h("div", null, count(of.jobs, "job")),
    h(C.Box, { color: "fg.muted", fontSize: "xs" }, `${count(of.instances, "image")}, ${formatSize(of.bytes)}`),
    of.bytes_per_s > 0 && h(C.Box, { color: "fg.muted", fontSize: "xs" }, `now ${formatSize(of.bytes_per_s)}/s`));

export const Destinations = () => {
  const rights = useRights();
  const live = useLive("destinations", {}, EVERY_MS);
  return h(C.Box, { mb: 8 },
    h(C.Flex, { align: "center", justify: "space-between", mb: 3, wrap: "wrap" },
      h(C.Heading, { as: "h1", size: "md" }, "Destinations"),
      rights.may("configure") && h(C.Button, { asChild: true, colorPalette: "brand", size: "sm" },
        h(Go, { view: { view: "destination" }, color: "white", _hover: { textDecoration: "none" } }, h(Icon, { name: "plus" }), "New destination"))),
    h(Whole, { of: live, what: "destinations" }, ({ items }) =>
      h(Rows, { label: "Destinations", rows: items, keyOf: (d) => d.name, rowProps: (d) => ({ "data-destination": d.name }),
        empty: h(Nothing, { title: "No archive is set up yet" }, h(Go, { view: { view: "setup" } }, "Set one up in three steps")),
        columns: [
          { title: "Name", cell: (d) => h(C.Box, null,
              h(Go, { view: { view: "destination", name: d.name }, fontWeight: "bold" }, d.name),
              h(C.Box, { color: "fg.muted", fontSize: "xs", minW: "7rem", overflowWrap: "anywhere" }, h("div", null, d.called_ae_title), h("div", null, `${d.host}:${d.port}`)),
              d.gateway && h(C.Box, { color: "fg.muted", fontSize: "xs" }, `by gateway ${d.gateway}`)) },
          { title: "Health", cell: (d) => h(Healths, { destination: d }), props: { w: "40%" } },
          { title: "Queue", cell: (d) => h(Queue, { destination: d }) },
          { title: "Last hour", cell: (d) => h(Throughput, { of: d.throughput_last_hour }), from: "md" },
          { title: "Holds", cell: (d) => `${d.holds_is_estimate ? "about " : ""}${count(d.holds_instances, "image")}`, from: "xl", props: { whiteSpace: "nowrap" } },
          { title: "Takes studies that are", cell: (d) => h(C.Box, { fontSize: "sm" }, d.trigger_status,
              h(C.Box, { color: "fg.muted", fontSize: "xs" }, [...d.facilities, ...d.facility_groups.map((g) => `group ${g}`)].join(", ") || "all facilities")), from: "lg" },
          { title: h(C.VisuallyHidden, null, "Switch"), cell: (d) => h(Switch, { destination: d, onDone: live.refresh }), props: { textAlign: "end" } },
        ] })));
};
