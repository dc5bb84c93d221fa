/* The gateways: the sites' machines that traffic leaves through. */

import { Age, C, Code, Go, h, Icon, Nothing, Pill, Rows, toast, Trouble, useRights, useState, Whole, WRONG } from "./kit.js";
import { post } from "./api.js";
import { useBusy, useLive } from "./live.js";
import { words } from "./words.js";

const STATES = {
  pending: { palette: "none", icon: "clock" },
  online: { palette: "success", icon: "check" },
  degraded: { palette: "up_for_retry", icon: "warning" },
  offline: { palette: "failed", icon: "cross" },
};

/** The form for a new gateway. */
export const GatewayForm = ({ onMade, onCancel }) => {
  const [name, setName] = useState("");
  const [group, setGroup] = useState("");
  const [problem, setProblem] = useState(null);
  const [make, isBusy] = useBusy(async () => {
    setProblem(null);
    try {
      const made = await post("gateways", { name: name.trim(), facility_group: group.trim() });
      toast("success", `Gateway ${name.trim()} is made`);
      onMade(made?.name ?? name.trim());
    } catch (error) {
      setProblem(error);
    }
  });
  const isAboutField = problem && Object.keys(problem.fields).length > 0;
  return h(C.Box, { as: "form", borderWidth: 1, borderRadius: "md", maxW: "40rem", mb: 4, noValidate: true, p: 4, onSubmit: (event) => { event.preventDefault(); make(); } },
    h(C.Stack, { gap: 4 },
      h(C.Field.Root, { invalid: Boolean(problem?.fields.name), required: true },
        h(C.Field.Label, null, "Name", h(C.Field.RequiredIndicator)),
        h(C.Input, { autoComplete: "off", autoFocus: true, maxLength: 40, onChange: (e) => setName(e.target.value), placeholder: "for instance north_1", size: "sm", value: name }),
        h(C.Field.ErrorText, { color: WRONG }, problem?.fields.name),
        h(C.Field.HelperText, null, "Lower-case letters, digits and underscores. It becomes the name of the queue whose workers run at the site.")),
      h(C.Field.Root, { invalid: Boolean(problem?.fields.facility_group), required: true },
        h(C.Field.Label, null, "Facility group", h(C.Field.RequiredIndicator)),
        h(C.Input, { autoComplete: "off", onChange: (e) => setGroup(e.target.value), placeholder: "for instance north", size: "sm", value: group }),
        h(C.Field.ErrorText, { color: WRONG }, problem?.fields.facility_group),
        h(C.Field.HelperText, null, "The group of facilities it stands in, as the platform names it.")),
      problem && !isAboutField && h(Trouble, { problem }),
      h(C.HStack, null,
        h(C.Button, { colorPalette: "brand", disabled: !name.trim() || !group.trim(), loading: isBusy, size: "sm", type: "submit" }, "Make the gateway"),
        onCancel && h(C.Button, { onClick: onCancel, size: "sm", variant: "ghost" }, "Back"))));
};

export const Gateways = () => {
  const rights = useRights();
  const live = useLive("gateways", {}, 5000);
  const [isOpen, setIsOpen] = useState(false);
  const isNewShown = rights.may("configure") && !isOpen;
  return h(C.Box, { mb: 8 },
    h(C.Flex, { align: "center", justify: "space-between", mb: 3 },
      h(C.Heading, { as: "h1", size: "md" }, "Gateways"),
      isNewShown && h(C.Button, { colorPalette: "brand", onClick: () => setIsOpen(true), size: "sm" }, h(Icon, { name: "plus" }), "New gateway")),
    isOpen && h(GatewayForm, { onMade: () => { setIsOpen(false); live.refresh(); }, onCancel: () => setIsOpen(false) }),
    h(Whole, { of: live, what: "gateways" }, ({ items }) =>
      h(Rows, { label: "Gateways", rows: items, keyOf: (gateway) => gateway.name,
        empty: h(Nothing, { title: "No gateway is set up" }, "Without one, traffic to the archives leaves from where Airflow runs. A site whose archive is only reached from there needs one."),
        columns: [
          { title: "Name", cell: (g) => h("b", null, g.name) },
          { title: "State", cell: (g) => h(C.Box, null,
              h(Pill, { ...STATES[g.state], fontSize: "xs", py: 0.5 }, words(g.state)),
              g.last_heartbeat_at && h(C.Box, { color: "fg.muted", fontSize: "xs", mt: 1 }, "last heard of ", h(Age, { at: g.last_heartbeat_at, as: "span" }))) },
          { title: "Facility group", cell: (g) => g.facility_group },
          { title: "Queue of its workers", cell: (g) => h(Code, null, g.queue), from: "md" },
          { title: "Version", cell: (g) => g.version, from: "lg" },
          { title: "Destinations", cell: (g) => g.destinations.map((name, i) => h("span", { key: name }, i > 0 && ", ", h(Go, { view: { view: "destination", name } }, name))) },
        ] })));
};
