/* The tab "Archive job" of an Airflow task instance: the job that its run carries out. */

import { C, Go, h, LiveRegion, Nothing, Rights, Toasts, useMemo } from "./kit.js";
import { Job } from "./job.js";
import { useLive } from "./live.js";

const Tab = ({ dagId, runId }) => {
  const live = useLive("jobs/by-run", { dag_id: dagId, run_id: runId }, 1500);
  const me = useLive("me");
  const rights = useMemo(() => ({ user: me.data?.user, may: (right) => Boolean(me.data?.rights.includes(right)) }), [me.data]);
  return h(Rights.Provider, { value: rights },
    h(C.Box, { h: "full", minH: 0, overflowY: "auto", p: 3 },
      live.problem?.status === 404
        ? h(Nothing, { title: "This run carries out no archive job" }, h(Go, { view: { view: "jobs" } }, "All jobs"))
        : h(C.Box, null,
            live.data && h(C.Box, { mb: 2 }, h(Go, { view: { view: "job", id: live.data.job_id }, fontSize: "sm" }, `Job ${live.data.job_id} in Archive Sync`)),
            h(Job, { live })),
      h(LiveRegion),
      h(Toasts)));
};

globalThis["Archive job"] = Tab;
