// Server-sent events across restarts of the server: no message is missed or repeated.

import { setAway } from "./api.js";
import { at } from "./dom.js";

/**
 * Follow a stream from the message after `after` to its end. `address(after)` is the stream's path; `onMessage(data, id)` gets
 * each message; `onState` gets "live", "reconnecting", and "ended" with the last message's data. Returns a function that stops.
 */
export function follow(address, after, { onMessage, onState = () => {} }) {
  let last = after;
  let source = null;
  let timer = null;
  let wait = 500;
  let isOver = false;

  function open() {
    source = new EventSource(at(address(last)));
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
      // A browser reconnects after a broken connection, but not after an answer such as 502.
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
