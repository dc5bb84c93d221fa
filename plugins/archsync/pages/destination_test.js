/* The test of an archive, step by step: where it fails, and what to do about it. */

import { announce, C, h, Icon, ReasonCode, Trouble, useEffect, useRef, useState, WRONG } from "./kit.js";
import { post } from "./api.js";
import { useBusy } from "./live.js";

const STATES = {
  ok: { color: "fg.success", icon: "check", label: "fine" },
  failed: { color: WRONG, icon: "cross", label: "failed" },
  warning: { color: "fg.warning", icon: "warning", label: "attention" },
  skipped: { color: "fg.muted", icon: "skip", label: "not tried" },
};

const Step = ({ step }) => {
  const { color, icon, label } = STATES[step.state] ?? STATES.skipped;
  return h(C.HStack, { as: "li", align: "flex-start", "data-step": step.step, "data-state": step.state, gap: 3 },
    h(Icon, { name: icon, color, boxSize: 4, mt: 1 }),
    h(C.Box, { fontSize: "sm", minW: 0 },
      h(C.Text, null, h("b", null, step.title), ": ", h(C.Text, { as: "span", color }, label),
        typeof step.took_ms === "number" && h(C.Text, { as: "span", color: "fg.muted", fontSize: "xs" }, ` (${Math.round(step.took_ms)} ms)`)),
      step.detail && h(C.Text, { overflowWrap: "anywhere" }, step.detail, " ", h(ReasonCode, { code: step.code, url: step.troubleshooting_url })),
      step.next_step && h(C.Text, { overflowWrap: "anywhere" }, h("b", null, "What to do: "), step.next_step)));
};

/** The button that asks the archive, and what it answered. `subject`: `{name}` or `{settings}`. */
export const Test = ({ subject, disabled }) => {
  const [result, setResult] = useState(null);
  const [run, isBusy] = useBusy(async () => {
    setResult(null);
    try {
      const answer = await post("destinations/test", subject());
      setResult(answer);
      announce(answer.steps.some((step) => step.state === "failed") ? "The test failed" : "The test is passed");
    } catch (problem) {
      setResult({ problem });
    }
  });
  const box = useRef(null);
  useEffect(() => {
    if (result) box.current?.scrollIntoView({ block: "nearest" });
  }, [result]);
  const failed = result?.steps?.filter((step) => step.state === "failed").length;
  return h(C.Box, null,
    h(C.HStack, { gap: 3, wrap: "wrap" },
      h(C.Button, { disabled, loading: isBusy, loadingText: "Asking the archive …", onClick: run, size: "sm", variant: "outline" }, "Test"),
      h(C.Text, { color: "fg.muted", fontSize: "sm" }, "Asks the archive with what is filled in here. Nothing is stored there or saved here.")),
    result?.problem && h(Trouble, { mt: 3, problem: result.problem }),
    result?.steps && h(C.Box, { ref: box, "aria-label": "Result of the test", "data-testid": "test-result", borderWidth: 1, borderColor: failed ? "border.error" : "border.success", borderRadius: "md", mt: 3, p: 3, role: "group", scrollMarginBottom: "4.5rem" },
      h(C.Text, { fontWeight: "bold", mb: 2 }, failed ? "The archive does not take us yet" : "The archive takes us"),
      h(C.Stack, { as: "ol", gap: 2, listStyleType: "none" }, result.steps.map((step) => h(Step, { key: step.step, step }))),
      result.note && h(C.Text, { color: "fg.muted", fontSize: "sm", mt: 2 }, result.note)));
};
