/* The tile on Airflow's dashboard: whether the archives get what is due. */

import { C, Go, h } from "./kit.js";
import { useLive } from "./live.js";
import { Hours, Summary } from "./overview.js";

const Tile = () => {
  const live = useLive("overview", {}, 10000);
  // Who may not see jobs gets no tile, and trouble of ours does not belong on everybody's first page.
  if (!live.data) return null;
  return h(C.Box, { as: "section", "aria-label": "Archive Sync", order: 3, borderWidth: 1, borderRadius: "md", p: 4 },
    h(C.Heading, { as: "h2", size: "md", mb: 3 }, h(Go, { view: { view: "jobs" }, color: "fg" }, "Archive Sync")),
    h(Summary, { overview: live.data }),
    h(Hours, { rows: live.data.jobs_per_hour }));
};

globalThis["Archive Sync tile"] = Tile;
