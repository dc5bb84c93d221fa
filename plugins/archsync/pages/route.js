/* Which view is open, and its filter: all in the address's query, so that a link or a bookmark leads to the same. */

const PAGE = "/plugin/archsync";

/** The router's path to a view: `pathTo({view: "job", id: 7})`. Lists are repeated; empty values are left out. */
export const pathTo = (query) => {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") search.append(name, one);
  return { pathname: PAGE, search: `?${search}` };
};

/** The view and its parameters as they stand in the address, and `go(query)` to open another. */
export const useRoute = () => {
  const [search] = globalThis.ReactRouterDOM.useSearchParams();
  const navigate = globalThis.ReactRouterDOM.useNavigate();
  return {
    view: search.get("view") ?? "jobs",
    one: (name) => search.get(name) ?? "",
    all: (name) => search.getAll(name),
    go: (query, options) => navigate(pathTo(query), options),
  };
};
