/* One setting as a form field: its meaning, default, unit and example come from the server's own table. */

import { C, h, WRONG } from "./kit.js";
import { words } from "./words.js";

const say = (value) => (value === true ? "on" : value === false ? "off" : Array.isArray(value) ? value.join(", ") : String(value));

const Control = ({ field, value, onChange, onBlur, disabled }) => {
  const common = { disabled, onBlur, size: "sm" };
  if (field.type === "boolean" && field.default !== null && field.default !== undefined)
    return h(C.Switch.Root, { checked: value === true || value === "true", colorPalette: "brand", disabled, onCheckedChange: (e) => { onChange(e.checked); onBlur(e.checked); } },
      h(C.Switch.HiddenInput), h(C.Switch.Control), h(C.Switch.Label, { fontSize: "sm" }, value === true || value === "true" ? "On" : "Off"));
  const choices = field.choices ?? (field.type === "boolean" ? ["true", "false"] : null);
  if (choices && field.type !== "list") {
    const isOptional = field.default === null || field.default === undefined;
    return h(C.NativeSelect.Root, { disabled, size: "sm" },
      h(C.NativeSelect.Field, { onBlur: () => onBlur(), onChange: (e) => onChange(e.target.value), value: value === null || value === undefined ? "" : String(value) },
        isOptional && h("option", { value: "" }, field.required ? "Choose …" : "(empty)"),
        choices.map((choice) => h("option", { key: choice, value: choice }, choice === "true" ? "on" : choice === "false" ? "off" : choice))),
      h(C.NativeSelect.Indicator));
  }
  return h(C.InputGroup, { endElement: field.unit ? h(C.Text, { color: "fg.muted", fontSize: "sm" }, field.unit) : undefined },
    h(C.Input, { ...common, autoComplete: "off", inputMode: ["integer", "number"].includes(field.type) ? "decimal" : undefined, onBlur: () => onBlur(), onChange: (e) => onChange(e.target.value),
      placeholder: field.example ? `for instance ${field.example}` : undefined, spellCheck: false, value: Array.isArray(value) ? value.join(",") : value ?? "" }));
};

/** A labelled field with what it means, what applies when it is left alone, and what is wrong with it. */
export const SettingField = ({ field, value, problem, onChange, onBlur, disabled, lockedBy }) => {
  const hasDefault = field.default !== null && field.default !== undefined && field.default !== "" && say(field.default) !== "";
  return h(C.Field.Root, { "data-setting": field.name, disabled, invalid: Boolean(problem), required: field.required },
    h(C.Field.Label, null, field.label ?? words(field.name), h(C.Field.RequiredIndicator)),
    h(Control, { field, value, onChange, onBlur, disabled }),
    h(C.Field.ErrorText, { alignItems: "flex-start", color: WRONG }, problem),
    h(C.Field.HelperText, null, field.meaning, hasDefault && ` Default: ${say(field.default)}${field.unit ? ` ${field.unit}` : ""}.`,
      field.type === "list" && " Several are separated by commas.", lockedBy && h(C.Text, { as: "span", color: "fg.warning" }, ` ${lockedBy}`)));
};
