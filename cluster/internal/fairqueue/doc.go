// Package fairqueue shares the work of an instance between callers. A caller that sends more
// than can be carried out waits for its own requests, and not all others with it.
//
// A [Queue] has the requests of each caller wait in an order of their own, and starts them in
// turn, one of each caller at a time. This is fair queueing, after Nagle (RFC 970, 1985). It
// refuses nothing and drops nothing. While only one caller asks, it has all to itself. While several ask,
// each has a share. A caller that floods, by having its share or more in the queue all the time, is held
// back: it has a smaller share, and rests after each burst. The number of
// callers should be bounded: each may have a request under way.
//
// The broker delivers the requests of all callers in one order, so the queue knows only those
// that the broker has delivered. While several callers ask, the prefetch count must therefore be larger
// than the number of requests under way: what lies between is the backlog of one caller that others do
// not notice.
package fairqueue
