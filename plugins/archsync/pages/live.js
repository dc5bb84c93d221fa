/* Data that stays true while somebody looks: polled only while the tab is visible, and cheap when nothing changed. */

import { useCallback, useEffect, useRef, useState } from "./kit.js";
import { address, get } from "./api.js";

const SLOWEST_MS = 15000; // of asking again while there is trouble

/**
 * Fetch `path` with `query`, and again every `everyMs` while the tab is visible; 0: once. `path` null: not at all.
 * @returns `{data, problem, answeredAt, isFresh, refresh}`. While the address changes, `data` is what was last known, and `isFresh` false.
 */
export const useLive = (path, query = {}, everyMs = 0) => {
  const url = path === null ? null : address(path, query);
  const [state, setState] = useState({});
  const wake = useRef(() => {});

  useEffect(() => {
    if (url === null) return undefined;
    const abort = new AbortController();
    let timer, etag, failures = 0, isBusy = false, isAskedAgain = false;

    const ask = async () => {
      clearTimeout(timer);
      if (isBusy) return void (isAskedAgain = true);
      isBusy = true;
      try {
        const answer = await get(url, { etag, signal: abort.signal });
        failures = 0;
        etag = answer.etag ?? etag;
        if (!abort.signal.aborted)
          setState((last) => ({ data: answer.isSame ? last.data : answer.data, url, answeredAt: new Date().toISOString() }));
      } catch (problem) {
        if (abort.signal.aborted) return;
        failures += 1;
        setState((last) => ({ ...last, data: last.url === url ? last.data : undefined, url, problem }));
      } finally {
        isBusy = false;
      }
      if (isAskedAgain) {
        isAskedAgain = false;
        return void ask();
      }
      if (everyMs && !document.hidden && !abort.signal.aborted) timer = setTimeout(ask, failures ? Math.min(everyMs * 2 ** failures, SLOWEST_MS) : everyMs);
    };
    const onVisibility = () => (document.hidden ? clearTimeout(timer) : everyMs && ask());

    wake.current = ask;
    ask();
    document.addEventListener("visibilitychange", onVisibility);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, [url, everyMs]);

  const refresh = useCallback(() => wake.current(), []);
  return { ...state, isFresh: state.url === url, refresh };
};

/** Run something that changes the world, one at a time: `[run, isBusy]`. */
export const useBusy = (action) => {
  const [isBusy, setIsBusy] = useState(false);
  const run = async (...args) => {
    if (isBusy) return;
    setIsBusy(true);
    try {
      await action(...args);
    } finally {
      setIsBusy(false);
    }
  };
  return [run, isBusy];
};
