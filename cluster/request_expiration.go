package cluster

import (
	"strconv"
	"time"
)

// expires returns when the request expires, the zero time if it does not. The broker does
// not tell how long the request was in the queue, so this is the latest possible time. A
// request with the expiration 0 was delivered at once, and does not expire after that.
func (r *request) expires() time.Time {
	if r.delivery.Expiration == "" {
		return time.Time{}
	}
	ms, err := strconv.ParseUint(r.delivery.Expiration, 10, 32)
	if err != nil || ms == 0 {
		return time.Time{}
	}
	return r.received.Add(time.Duration(ms) * time.Millisecond)
}

// isExpired reports whether the request has expired since it was received.
func (r *request) isExpired() bool {
	expires := r.expires()
	return !expires.IsZero() && time.Now().After(expires)
}

// restOfExpiration returns the expiration of a copy of the request that is sent now.
func (r *request) restOfExpiration() string {
	expires := r.expires()
	if expires.IsZero() {
		return r.delivery.Expiration
	}
	return strconv.FormatInt(max(1, time.Until(expires).Milliseconds()), 10)
}
