// Package stream serves the API's server-sent events (WHATWG HTML, 9.2). Whoever has something to tell publishes it under a
// key and never waits; each stream has a queue of its own, and a reader that does not keep up is told so and dropped.
package stream
