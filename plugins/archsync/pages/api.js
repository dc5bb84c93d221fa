/* The HTTP API behind the pages: JSON in, JSON out, every failure an `ApiProblem` with words for people. */

const BASE = new URL("../api/v1/", import.meta.url);

/** What the server (or the way to it) said when it did not do what was asked. */
export class ApiProblem extends Error {
  constructor({ status, code, title, detail, nextStep, fields }) {
    super(detail);
    Object.assign(this, { status, code, title, detail, nextStep, fields: fields ?? {} });
  }
}

/** The address of a resource; lists in the query are repeated, empty values left out. */
export const address = (path, query = {}) => {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query))
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") url.searchParams.append(name, one);
  return url.href;
};

const logIn = () => {
  const { pathname, search, hash } = globalThis.location;
  const login = new URL("api/v2/auth/login", document.baseURI);
  login.searchParams.set("next", `${pathname}${search}${hash}`);
  globalThis.location.replace(login);
};

const problemOf = async (response) => {
  const said = await response.json().catch(() => ({}));
  return new ApiProblem({
    status: response.status,
    code: said.code ?? `http-${response.status}`,
    title: said.title ?? `The server answered ${response.status}`,
    detail: typeof said.detail === "string" ? said.detail : "It said no more; what answered may be a proxy before Airflow.",
    nextStep: said.next_step,
    fields: said.fields,
  });
};

const readJson = (response) =>
  response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem({ status: response.status, code: "not-json", title: "The answer can't be read", detail: "What answered was not archsync, or was cut off.",
      nextStep: "Load the page again; if it persists, look at the proxy before Airflow." });
  });

const request = async (url, options) => {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem({ status: 0, code: "unreachable", title: "Airflow can't be reached", detail: "The server did not answer.",
      nextStep: "Check the network; if it persists, ask whether Airflow's API server runs." });
  }
  if (response.status === 401) logIn();
  if (!response.ok && response.status !== 304) throw await problemOf(response);
  return response;
};

/** Fetch a resource. With the ETag of the last answer, an unchanged one comes back as `{isSame: true}`. */
export const get = async (url, { etag, signal } = {}) => {
  const response = await request(url, { signal, headers: { Accept: "application/json", ...(etag && { "If-None-Match": etag }) } });
  if (response.status === 304) return { isSame: true };
  return { data: await readJson(response), etag: response.headers.get("ETag") };
};

/** Ask for a change (or for something that must not stand in a URL). */
export const send = async (method, path, body = {}) => {
  const response = await request(address(path), { method, headers: { Accept: "application/json", "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return response.status === 204 ? null : readJson(response);
};
export const post = (path, body) => send("POST", path, body);
