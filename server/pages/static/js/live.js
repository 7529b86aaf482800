// Server-sent events that outlive restarts of the server: nothing is missed, nothing comes twice.

import { setAway } from "./api.js";

/**
 * Follow a stream from behind `after` to its end. `address(after)` gives the stream's path; `onMessage(data, id)` each
 * message; `onState` hears "live", "reconnecting", and "ended" with the last message's data. Returns a way to stop.
 */
export function follow(address, after, { onMessage, onState = () => {} }) {
  let last = after;
  let source = null;
  let timer = null;
  let wait = 500;
  let isOver = false;

  function open() {
    source = new EventSource(address(last));
    source.onopen = () => {
      wait = 500;
      setAway(false);
      onState("live");
    };
    source.onmessage = (message) => {
      last = Number(message.lastEventId || last);
      onMessage(message.data, last);
    };
    source.addEventListener("end", (message) => {
      isOver = true;
      source.close();
      onState("ended", JSON.parse(message.data));
    });
    source.onerror = () => {
      if (isOver) return;
      onState("reconnecting");
      // A browser comes back by itself after a broken line, but not after an answer such as 502: then we do.
      if (source.readyState !== EventSource.CLOSED) return;
      setAway(true);
      timer = setTimeout(open, wait * (0.7 + 0.6 * Math.random()));
      wait = Math.min(wait * 2, 15000);
    };
  }

  open();
  return () => {
    isOver = true;
    clearTimeout(timer);
    source.close();
  };
}
