/* Archive Sync in Airflow's navigation: the tabs, and the view that the address names. */

import { C, h, LiveRegion, Loading, Note, Rights, Router, Toasts, Trouble, useEffect, useMemo } from "./kit.js";
import { useLive } from "./live.js";
import { pathTo, useRoute } from "./route.js";
import { DestinationForm } from "./destination_form.js";
import { Destinations } from "./destinations.js";
import { Gateways } from "./gateways.js";
import { JobPage } from "./job.js";
import { Jobs } from "./jobs.js";
import { Overview } from "./overview.js";
import { SetUp } from "./setup.js";
import { Study } from "./study.js";

const VIEWS = {
  jobs: Jobs,
  job: JobPage,
  overview: Overview,
  destinations: Destinations,
  destination: DestinationForm,
  gateways: Gateways,
  studies: Study,
  setup: SetUp,
};
const TABS = [
  ["jobs", "Jobs", ["job"]],
  ["overview", "Overview", []],
  ["destinations", "Destinations", ["destination"]],
  ["gateways", "Gateways", []],
  ["studies", "Studies", []],
  ["setup", "Set up", []],
];

const Tab = ({ view, label, isOpen }) =>
  h(C.Link,
    { asChild: true, borderBottomWidth: 3, borderColor: isOpen ? "border.info" : "transparent", color: isOpen ? "fg" : "fg.muted", fontSize: "sm",
      fontWeight: "bold", mb: "-2px", px: 4, py: 2, whiteSpace: "nowrap", _hover: { color: "fg", textDecoration: "none" } },
    h(Router.Link, { "aria-current": isOpen ? "page" : undefined, to: pathTo({ view }) }, label));

const Tabs = ({ view }) =>
  h(C.Flex, { as: "nav", "aria-label": "Archive Sync", borderBottomWidth: 1, borderColor: "border.emphasized", mb: 3, overflowX: "auto", overflowY: "hidden", pb: "1px" },
    TABS.map(([name, label, parts]) => h(Tab, { key: name, view: name, label, isOpen: view === name || parts.includes(view) })));

// Airflow renders a page first through React.lazy and, from its next rendering on, directly. React takes that for another
// component and mounts it anew: a menu that is open would close, a form would be empty. So have that happen at once.
let isSettled = false;
const useSettled = () => {
  const location = Router.useLocation();
  const navigate = Router.useNavigate();
  useEffect(() => {
    if (isSettled) return;
    isSettled = true;
    navigate(location, { replace: true, state: location.state });
  }, []);
  return isSettled;
};

const Page = () => (useSettled() ? h(App) : null);

const App = () => {
  const { view } = useRoute();
  const me = useLive("me");
  const rights = useMemo(() => ({ user: me.data?.user, may: (right) => Boolean(me.data?.rights.includes(right)) }), [me.data]);
  const View = VIEWS[view];
  return h(Rights.Provider, { value: rights },
    h(C.Box, { id: "archsync", h: "full", minH: 0, overflowY: "auto", px: 3, py: 2 },
      h(Tabs, { view }),
      me.data && (View ? h(View, { key: view }) : h(Note, { title: "There is no such page" }, "The address names a view that Archive Sync does not have.")),
      !me.data && (me.problem ? h(Trouble, { problem: me.problem, onRetry: me.refresh }) : h(Loading, { what: "Archive Sync" })),
      h(LiveRegion),
      h(Toasts)));
};

globalThis["Archive Sync"] = Page;
