package ownership

import "time"

// An outage is a time in which no claim gets a reply from the database.
type outage struct {
	since time.Time // when claims began to fail; zero if the latest got a reply
}

// onFailure notes that a claim got no reply.
func (o *outage) onFailure(now time.Time) {
	if o.since.IsZero() {
		o.since = now
	}
}

// onReply notes that a claim got a reply. It reports whether that ends an outage that
// was not shorter than least.
func (o *outage) onReply(now time.Time, least time.Duration) bool {
	since := o.since
	o.since = time.Time{}
	return !since.IsZero() && now.Sub(since) >= least
}
