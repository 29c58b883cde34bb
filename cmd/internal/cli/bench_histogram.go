package cli

import (
	"math/bits"
	"time"
)

const (
	// benchPrecision is how many buckets there are for each power of two, as
	// its logarithm: a duration is known to 1 part in 256.
	benchPrecision = 7

	benchBuckets = (64 - benchPrecision) << benchPrecision
)

// A benchHistogram counts durations in buckets that are as wide as they have to
// be for a constant relative error. The zero value is empty.
type benchHistogram struct {
	counts [benchBuckets]uint32
	total  int
}

// benchBucket returns in which bucket a duration is counted. Those below 2^8 ns
// have one each.
func benchBucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-benchPrecision-1, 0)
	return shift<<benchPrecision + int(v>>shift)
}

// benchBucketMiddle returns the middle of the durations that a bucket counts.
func benchBucketMiddle(bucket int) time.Duration {
	shift := max(bucket>>benchPrecision-1, 0)
	least := uint64(bucket-shift<<benchPrecision) << shift
	return time.Duration(least + (1<<shift)/2)
}

func (h *benchHistogram) add(d time.Duration) {
	h.counts[benchBucket(d)]++
	h.total++
}

func (h *benchHistogram) merge(other *benchHistogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// quantile returns the duration that the share q of all durations, from 0 to 1,
// does not exceed; 0 if there is none at all.
func (h *benchHistogram) quantile(q float64) time.Duration {
	rank, seen := int(q*float64(h.total)+0.5), 0
	for i, n := range h.counts {
		if seen += int(n); n > 0 && seen >= rank {
			return benchBucketMiddle(i)
		}
	}
	return 0
}
