package bench

import (
	"math/bits"
	"time"
)

const (
	// precision is the logarithm of the number of buckets for each power of two. It
	// gives durations an error of at most 1/256.
	precision = 7

	bucketCount = (64 - precision) << precision
)

// A histogram counts durations in buckets with a constant relative width. The zero
// value is empty.
type histogram struct {
	counts [bucketCount]uint32
	total  int
}

// bucketOf returns the bucket of a duration. Each duration below 2^8 ns has a bucket of
// its own.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-precision-1, 0)
	return shift<<precision + int(v>>shift)
}

// bucketMiddle returns the middle of a bucket.
func bucketMiddle(bucket int) time.Duration {
	shift := max(bucket>>precision-1, 0)
	least := uint64(bucket-shift<<precision) << shift
	return time.Duration(least + (1<<shift)/2)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.total++
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// quantile returns the duration that the share q of all durations, from 0 to 1, does
// not exceed. It returns 0 if the histogram is empty.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int(q*float64(h.total)+0.5), 0
	for i, n := range h.counts {
		if seen += int(n); n > 0 && seen >= rank {
			return bucketMiddle(i)
		}
	}
	return 0
}
