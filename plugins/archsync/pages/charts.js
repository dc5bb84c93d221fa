/* Charts as inline SVG: colours from the theme, numbers also as a table, nothing that only colour tells. */

import { C, h, Rows, Section, statusPalette, useEffect, useRef, useState } from "./kit.js";
import { formatCount, words } from "./words.js";

const HEIGHT = 200;
const LEFT = 44;
const BOTTOM = 22;

const fill = (status) => `var(--chakra-colors-${statusPalette(status)}-solid)`;

/** A round number not much above `n`: the top of an axis. */
const roundUp = (n) => {
  const power = 10 ** Math.floor(Math.log10(Math.max(n, 1)));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((f) => f * power).find((top) => top >= n);
};

const Legend = ({ statuses }) =>
  h(C.HStack, { "aria-hidden": true, fontSize: "xs", gap: 4, wrap: "wrap" }, statuses.map((status) =>
    h(C.HStack, { key: status, gap: 1.5 }, h(C.Box, { bg: `${statusPalette(status)}.solid`, borderRadius: "sm", boxSize: 3 }), words(status))));

/** The width of an element as it is laid out, so that the drawing's letters keep their size. */
const useWidth = () => {
  const ref = useRef(null);
  const [width, setWidth] = useState(960);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(320, Math.round(entry.contentRect.width))));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
};

const Words = (props) => h("text", { fill: "var(--chakra-colors-fg-muted)", style: { fontSize: "12px" }, ...props });

/** Stacked bars: `rows` of `{label, title, counts: {status: n}}`, oldest first. */
export const StackedBars = ({ rows, statuses, summary, everyLabel }) => {
  const totalOf = (row) => statuses.reduce((sum, status) => sum + (row.counts[status] ?? 0), 0);
  const top = roundUp(Math.max(...rows.map(totalOf), 1));
  const [ref, width] = useWidth();
  const step = (width - LEFT) / rows.length;
  const y = (n) => (HEIGHT - BOTTOM) * (1 - n / top) * 0.94 + 8;
  const ticks = [0, top / 2, top].filter(Number.isInteger);
  const drawing = h("svg", { "aria-label": summary, role: "img", height: HEIGHT, width, viewBox: `0 0 ${width} ${HEIGHT}`, style: { display: "block" } },
    ticks.map((n) => h("g", { key: n },
      h("line", { x1: LEFT, x2: width, y1: y(n), y2: y(n), stroke: "var(--chakra-colors-border)", strokeWidth: 1 }),
      h(Words, { x: LEFT - 8, y: y(n) + 4, textAnchor: "end" }, formatCount(n)))),
    rows.map((row, i) => {
      let below = 0;
      return h("g", { key: row.title },
        h("title", null, `${row.title}: ${statuses.filter((s) => row.counts[s]).map((s) => `${formatCount(row.counts[s])} ${s}`).join(", ") || "none"}`),
        h("rect", { x: LEFT + i * step, y: 0, width: step, height: HEIGHT - BOTTOM, fill: "transparent" }),
        statuses.filter((status) => row.counts[status]).map((status) => {
          const bar = { x: LEFT + i * step + step * 0.12, width: step * 0.76, y: y(below + row.counts[status]), height: y(below) - y(below + row.counts[status]) };
          below += row.counts[status];
          return h("rect", { key: status, ...bar, fill: fill(status) });
        }),
        i % everyLabel === 0 && h(Words, { x: LEFT + i * step + 2, y: HEIGHT - 4 }, row.label));
    }));
  return h(C.Box, { ref, overflow: "hidden", w: "full" }, drawing);
};

/** A chart with its legend, and a button that shows the same numbers as a table. */
export const Chart = ({ title, rows, statuses, summary, everyLabel, nameOfRow }) => {
  const [isTable, setIsTable] = useState(false);
  return h(Section, { title, actions: h(C.Button, { "aria-pressed": isTable, onClick: () => setIsTable(!isTable), size: "xs", variant: "outline" }, isTable ? "As a chart" : "As a table") },
    isTable
      ? h(C.Box, { maxH: "20rem", overflowY: "auto" }, h(Rows, { label: title, rows: [...rows].reverse(), keyOf: (row) => row.title, columns: [
          { title: nameOfRow, cell: (row) => row.title },
          ...statuses.map((status) => ({ title: words(status), cell: (row) => formatCount(row.counts[status]), props: { textAlign: "end" } })),
        ] }))
      : h(C.Stack, { gap: 2 }, h(StackedBars, { rows, statuses, summary, everyLabel }), h(Legend, { statuses })));
};

/** One horizontal bar with its value in words beside it. */
export const Bar = ({ share, palette, children }) =>
  h(C.Flex, { align: "center", gap: 2 },
    h(C.Box, { "aria-hidden": true, bg: "bg.emphasized", borderRadius: "sm", flex: "1 1 6rem", h: 3, maxW: "16rem", overflow: "hidden" },
      h(C.Box, { bg: `${palette}.solid`, h: "full", w: `${Math.max(share * 100, share > 0 ? 2 : 0)}%` })),
    h(C.Box, { fontSize: "sm", whiteSpace: "nowrap" }, children));
