// The server's rules for channel names and event types, so that the page refuses a wrong one before it is used. Sends nothing.

const MOST_BYTES = 255;
const bytes = (text) => new TextEncoder().encode(text).length;
const quoted = (text) => JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);

// Why a page can't subscribe to the channel `name`, or null if it can.
export function channelProblem(name) {
  if (!name) return "A channel name can't be empty.";
  if (bytes(name) > MOST_BYTES) return `Channel ${quoted(name)} has ${bytes(name)} bytes; at most ${MOST_BYTES} are allowed.`;
  if (/[\p{Cc},*?[\]\\]/u.test(name)) return `Channel ${quoted(name)}: control characters, commas and * ? [ ] \\ are not allowed.`;
  if (/^(__|ssecast:)/.test(name)) return `Channel ${quoted(name)}: names that begin with __ or ssecast: are reserved.`;
  return null;
}

// Why no event can have the type `type`, or null if one can.
export function typeProblem(type) {
  if (!type) return "An event type can't be empty.";
  if (bytes(type) > MOST_BYTES) return `Type ${quoted(type)} has ${bytes(type)} bytes; at most ${MOST_BYTES} are allowed.`;
  if (/[\r\n\0]/.test(type)) return `Type ${quoted(type)} has a line break or a NUL.`;
  if (type.startsWith("ssecast.")) return `Type ${quoted(type)}: types that begin with ssecast. are ssecast's own.`;
  if (type === "error" || type === "open") return `Type ${quoted(type)} is the name of EventSource's own event: use another.`;
  return null;
}
