// Package relay sends requests from the instance that has received them to the one that
// serves their partition, in batches and without the partition's queue.
//
// An instance has one queue for what others send it, and one lane to each other instance. A
// lane sends at once when it is idle. While the broker has not confirmed what was sent last,
// it gathers what comes. The instance that serves a partition accepts a request or refuses
// it, replies to the caller, and reports that the request is complete. A message without the seal of
// an instance is ignored.
//
// The partition's queue stays the way that always works. A request goes there if it is
// refused, if its batch is returned by the broker, or if nothing was heard of the request for
// a while. Then all other requests of its partition that were relayed and are not complete go
// there too, in their order. They may have been carried out: their request ids tell.
//
// # The state of a partition
//
// A router has a state for each partition:
//
//	         another instance serves it          answered           answered
//	local ───────────────────────────▶ queued ────────▶ flushing ─────────▶ direct
//	  ▲                                   ▲                │  │                 │
//	  │    answered by this instance      │  not answered  │  │         refused │
//	  ╰───────────────────────────────────┼────────────────┼──╯  or not heard of│
//	                                      ╰────────────────┴────────────────────╯
//
// What each state means:
//
//   - local: this instance serves the partition, and its actors get the requests.
//   - queued: the requests go to the partition's queue. An ask goes there too. The instance that
//     gets it answers.
//   - flushing: the last ask was answered, so the queue is being consumed. Another ask is in the
//     queue. Requests wait for its answer, for flushFor at most.
//   - direct: the second ask was answered. All requests that this router had put into the queue came
//     before it, so their user's actors have them. Requests are relayed to the instance that has answered.
//
// After a fault of the instance that serves the partition, or of the way to it, there is no ask for a
// second, and for up to half a minute after many faults in a row.
//
// So the requests of one user never overtake each other on their two ways.
//
// Each ask has a number. A relayed request has the number of the ask by which its partition
// became direct, and its place among those. An instance accepts only the next one: after it has refused
// one, or one was lost, it refuses all others with this number, so that later ones do not overtake.
// [Senders] keeps account of that.
package relay
