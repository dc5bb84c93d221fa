/* Three steps from nothing to the first study sent: gateway, destination, switching on. */

import { C, Go, h, Icon, Note, toast, toastProblem, useRights, useState, Whole } from "./kit.js";
import { post } from "./api.js";
import { Form } from "./destination_form.js";
import { Test } from "./destination_test.js";
import { Healths } from "./destinations.js";
import { GatewayForm } from "./gateways.js";
import { useBusy, useLive } from "./live.js";
import { useRoute } from "./route.js";

const STEPS = ["Gateway", "Destination", "Link and switch on"];

const Gateway = ({ onNext }) => {
  const gateways = useLive("gateways");
  const [isNew, setIsNew] = useState(false);
  const names = (gateways.data?.items ?? []).map((gateway) => gateway.name);
  return h(C.Box, null,
    h(C.Text, { mb: 2, maxW: "50rem" }, "A gateway is a worker at a site. It is needed where the archive can only be reached from there. If Airflow itself reaches the archive, go on without one."),
    isNew
      ? h(GatewayForm, { onMade: (name) => onNext({ gateway: name }), onCancel: () => setIsNew(false) })
      : h(C.HStack, { gap: 2, wrap: "wrap" },
          h(C.Button, { colorPalette: "brand", onClick: () => onNext({ gateway: "" }), size: "sm" }, "Go on without a gateway"),
          names.map((name) => h(C.Button, { key: name, onClick: () => onNext({ gateway: name }), size: "sm", variant: "outline" }, `Use ${name}`)),
          h(C.Button, { onClick: () => setIsNew(true), size: "sm", variant: "outline" }, h(Icon, { name: "plus" }), "New gateway")));
};

const Destination = ({ gateway, onNext, onBack }) => {
  const schema = useLive("destinations/schema");
  return h(C.Box, null,
    h(C.Text, { mb: 3, maxW: "50rem" }, "Describe the archive. Its AE title, host and port come from whoever runs it; all else has a default that works. It is switched off at first: nothing is sent before the last step. Press Test until it is green."),
    h(Whole, { of: schema, what: "settings" }, (settings) => h(Form, { schema: settings, start: { gateway: gateway || null, enabled: false }, onSaved: (name) => onNext({ name }) })),
    h(C.Button, { onClick: onBack, size: "xs", variant: "ghost" }, h(Icon, { name: "left" }), "Back to the gateway"));
};

const Link = ({ name }) => {
  const live = useLive("destinations", {}, 3000);
  const here = live.data?.items.find((destination) => destination.name === name);
  const [switchOn, isBusy] = useBusy(async () => {
    try {
      await post(`destinations/${name}/enable`);
      toast("success", `${name} is switched on`);
    } catch (problem) {
      toastProblem(problem);
    }
    live.refresh();
  });
  return h(Whole, { of: live, what: name }, () => !here
    ? h(Note, { tone: "warning", title: `There is no destination ${name}` }, h(Go, { view: { view: "setup", step: 2 } }, "Describe it first"))
    : h(C.Stack, { gap: 4, maxW: "50rem" },
        h(C.Text, null, here.gateway
          ? `${name} is linked to gateway ${here.gateway}: its jobs run on the workers of that gateway's queue.`
          : `${name} is reached from where Airflow runs.`),
        h(Test, { subject: () => ({ name }) }),
        h(C.Box, null, h(Healths, { destination: here })),
        here.enabled
          ? h(Note, { tone: "success", title: `${name} is switched on` }, "Studies that are due appear as jobs within seconds. ", h(Go, { view: { view: "jobs", destination: name } }, "See its jobs"))
          : h(C.HStack, { gap: 3, wrap: "wrap" },
              h(C.Button, { colorPalette: "brand", loading: isBusy, onClick: switchOn, size: "sm" }, "Switch it on"),
              h(C.Text, { color: "fg.muted", fontSize: "sm" }, "From then on every study in its scope is sent, those that are complete already included."))));
};

export const SetUp = () => {
  const route = useRoute();
  const rights = useRights();
  const step = Math.min(3, Math.max(1, Number(route.one("step")) || 1));
  const go = (query) => route.go({ view: "setup", gateway: route.one("gateway"), name: route.one("name"), ...query });
  if (!rights.may("configure")) return h(Note, { title: "Setting up needs another role" }, "You may see destinations, but not make them. In Airflow, the roles Op and Admin may.");
  return h(C.Box, { mb: 8 },
    h(C.Heading, { as: "h1", size: "md", mb: 4 }, "Set up an archive in three steps"),
    h(C.Steps.Root, { colorPalette: "brand", count: STEPS.length, linear: false, mb: 6, size: "sm", step: step - 1 },
      // Chakra takes them for tabs; nothing is to be pressed here.
      h(C.Steps.List, { "aria-label": "Steps", "aria-orientation": null, "aria-owns": null, role: "list" }, STEPS.map((title, i) =>
        h(C.Steps.Item, { key: title, index: i, role: "listitem", title },
          h(C.Box, { "aria-current": i + 1 === step ? "step" : undefined, display: "flex", alignItems: "center", gap: 2 },
            h(C.Steps.Indicator),
            h(C.Steps.Title, { fontSize: "sm" }, title)),
          h(C.Steps.Separator))))),
    step === 1 && h(Gateway, { onNext: (found) => go({ ...found, step: 2 }) }),
    step === 2 && h(Destination, { gateway: route.one("gateway"), onNext: (found) => go({ ...found, step: 3 }), onBack: () => go({ step: 1 }) }),
    step === 3 && h(Link, { name: route.one("name") }));
};
