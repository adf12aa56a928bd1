/* Where data comes from: script elements only, since file:// pages may load nothing else.
   In: names ("run", "index", "c000001-00"). Out: promises of what `PVRL.give(name, payload)` brought.
   Keeps run and index, and the chunks used last; what a single file holds is never asked for again.
   Judges no payload. */
"use strict";
window.PVRL = window.PVRL || {};
(function () {
  const CHUNKS_KEPT = 24;
  const ALLOWED = /^data\/[A-Za-z0-9_-]+\.js(\?[A-Za-z0-9._=%-]*)?$/;
  const inlined = PVRL.given || {};
  const kept = new Map();
  const loading = new Map();
  const asking = new WeakMap();

  function allowed(url) {
    if (!ALLOWED.test(url)) throw new TypeError(`not a data file of this page: ${url}`);
    return url;
  }
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("pvrl", { createScriptURL: allowed })
    : { createScriptURL: allowed };

  PVRL.give = function (name, payload) {
    const asked = asking.get(document.currentScript);
    kept.delete(name);
    kept.set(name, { payload, stamp: asked ? asked.stamp : "" });
    if (asked) asked.came = true;
    const chunks = [...kept.keys()].filter((n) => /^[ct]\d/.test(n));
    for (const old of chunks.slice(0, Math.max(0, chunks.length - CHUNKS_KEPT))) kept.delete(old);
  };

  /* The payload of a name: kept with this stamp, or loaded now. Rejects without such a file. */
  PVRL.need = function (name, stamp = "") {
    if (Object.hasOwn(inlined, name)) return Promise.resolve(inlined[name]);
    const have = kept.get(name);
    if (have && have.stamp === stamp) {
      kept.delete(name);
      kept.set(name, have);
      return Promise.resolve(have.payload);
    }
    return PVRL.again(name, stamp);
  };

  /* The payload of a name, loaded anew; `query` goes behind the address. */
  PVRL.again = function (name, query = "") {
    if (Object.hasOwn(inlined, name)) return Promise.resolve(inlined[name]);
    const before = loading.get(name);
    if (before && before.stamp === query) return before.promise;
    const order = before ? before.promise.catch(() => null) : Promise.resolve();
    const entry = { stamp: query, came: false };
    entry.promise = order.then(() => load(name, entry));
    loading.set(name, entry);
    return entry.promise;
  };

  function load(name, entry) {
    loading.set(name, entry);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const end = (problem) => {
        if (loading.get(name) === entry) loading.delete(name);
        script.remove();
        if (problem) reject(new Error(`data/${name}.js ${problem}`));
        else resolve(kept.get(name).payload);
      };
      const query = entry.stamp ? `?${entry.stamp}` : "";
      asking.set(script, entry);
      script.src = policy.createScriptURL(`data/${name}.js${query}`);
      script.addEventListener("load", () => end(entry.came ? "" : "gave nothing"));
      script.addEventListener("error", () => end("cannot be loaded"));
      document.head.append(script);
    });
  }

  /* The address of a picture, "" where there is none: inlined, or a file beside the page. */
  PVRL.picture = function (sha, small) {
    if (!/^[0-9a-f]{1,64}$/.test(sha)) return "";
    if (!inlined.media) return small ? `thumbs/${sha}.webp` : `media/${sha}.png`;
    const url = Object.hasOwn(inlined.media, sha) ? String(inlined.media[sha]) : "";
    return /^data:image\/(png|webp|jpeg);base64,/.test(url) ? url : "";
  };
})();
