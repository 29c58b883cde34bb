package membership

import (
	"slices"

	"github.com/glotpod/ident/cluster/ownership"
)

// A parcel is something to be published.
type parcel struct {
	number uint64 // rises with each that is put
	kind   kind
	who    ownership.Member // of a probe

	exchange, key string
	name          string // its type
	correlation   string
	body          []byte
}

type kind uint8

const (
	broadcast kind = iota // to all, or to one alone
	probe
	reply
)

// How much of each kind waits to be sent, and of probes also for the broker's
// word.
const (
	maxBroadcasts     = 1024
	maxBroadcastBytes = 16 << 20
	maxProbes         = 1024
	maxReplies        = 32
)

// An outbound is what is to be sent, and what was sent and is not confirmed.
//
// Invariant: sent is in the order of publishing, in which the broker's
// confirmations come, too.
type outbound struct {
	last    uint64 // number of a parcel
	waiting []parcel
	sent    []uint64                    // numbers of parcels
	keys    []string                    // of each that was sent, the queue if it is a probe
	probes  map[string]ownership.Member // open questions, by queue
	counts  [reply + 1]int              // of waiting
	bytes   int                         // of the broadcasts among waiting
}

func newOutbound() outbound { return outbound{probes: make(map[string]ownership.Member)} }

// put adds a parcel, and reports false if one had to be thrown away. A probe of
// which the like is open is none that has to be sent.
func (o *outbound) put(p parcel) bool {
	switch p.kind {
	case broadcast:
		o.bytes += len(p.body)
	case probe:
		if _, open := o.probes[p.key]; open {
			return true
		}
		if len(o.probes) >= maxProbes {
			return false
		}
		o.probes[p.key] = p.who
	case reply:
		if o.counts[reply] >= maxReplies {
			return false
		}
	}
	o.last++
	p.number = o.last
	o.counts[p.kind]++
	o.waiting = append(o.waiting, p)
	thrown := false
	for o.counts[broadcast] > maxBroadcasts || o.bytes > maxBroadcastBytes {
		oldest := slices.IndexFunc(o.waiting, func(p parcel) bool { return p.kind == broadcast })
		o.forget(o.waiting[oldest])
		o.waiting = slices.Delete(o.waiting, oldest, oldest+1)
		thrown = true
	}
	return !thrown
}

// forget takes a parcel out of the count.
func (o *outbound) forget(p parcel) {
	o.counts[p.kind]--
	if p.kind == broadcast {
		o.bytes -= len(p.body)
	}
}

// next returns the parcel to be published now, if there is one.
func (o *outbound) next() (parcel, bool) {
	if len(o.waiting) == 0 || len(o.sent) >= maxUnconfirmed {
		return parcel{}, false
	}
	p := o.waiting[0]
	o.waiting[0] = parcel{}
	o.waiting = o.waiting[1:]
	o.forget(p)
	key := ""
	if p.kind == probe {
		key = p.key
	}
	o.sent, o.keys = append(o.sent, p.number), append(o.keys, key)
	return p, true
}

// confirm notes that the broker has said of the oldest that was sent what it
// had to say.
func (o *outbound) confirm() {
	if o.keys[0] != "" {
		delete(o.probes, o.keys[0])
	}
	o.sent, o.keys = o.sent[1:], o.keys[1:]
}

// settled reports whether all parcels up to a number are confirmed or thrown
// away.
func (o *outbound) settled(last uint64) bool {
	switch {
	case len(o.sent) > 0:
		return o.sent[0] > last
	case len(o.waiting) > 0:
		return o.waiting[0].number > last
	}
	return true
}
