/* Numbers, moments and names as an administrator reads them. */

/** The time zone chosen in Airflow, which keeps it in the browser's storage. */
const timeZone = () => {
  try {
    return JSON.parse(localStorage.getItem("timezone")) || undefined;
  } catch {
    return undefined;
  }
};

const formats = new Map();
const formatOf = (zone) => {
  if (!formats.has(zone)) {
    const parts = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" };
    formats.set(zone, new Intl.DateTimeFormat("sv-SE", { ...parts, timeZone: zone, hourCycle: "h23" }));
  }
  return formats.get(zone);
};

/** `2026-11-24 17:36:03`, like Airflow's own pages. */
export const formatMoment = (at) => (at ? formatOf(timeZone()).format(new Date(at)) : "");
export const formatTime = (at) => formatMoment(at).slice(11);

const span = (seconds) => {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
};

/** `12 s ago`, `in 3 min`. */
export const formatAge = (at) => {
  const seconds = (Date.now() - new Date(at)) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
};

/** How long something took: `0.42 s`, `3 min 5 s`; empty while it runs. */
export const formatTook = (from, to) => {
  if (!from || !to) return "";
  const seconds = (new Date(to) - new Date(from)) / 1000;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  return seconds < 60 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
};

export const formatCount = (n) => (n ?? 0).toLocaleString("en-US");
export const count = (n, what, many = `${what}s`) => `${formatCount(n)} ${n === 1 ? what : many}`;

/** A size in the largest unit that fits, as the command line writes it. */
export const formatSize = (bytes) => {
  let value = bytes ?? 0;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return unit === "B" ? `${value} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
};

/** `exam_status` → `Exam status`. */
export const words = (name) => {
  const text = String(name ?? "").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};

/** The start and the end of a UID, whose middle says little. */
export const shortUid = (uid) => (uid && uid.length > 30 ? `${uid.slice(0, 12)}…${uid.slice(-14)}` : uid ?? "");
