package bench

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHistogramPrecision(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		var h histogram
		h.add(d)
		if got := h.quantile(0.5); math.Abs(float64(got-d)) > float64(d)/256 {
			t.Errorf("%d is counted as %d", d, got)
		}
	})
}

func TestHistogramBuckets(t *testing.T) {
	for bucket := range bucketCount {
		if got := bucketOf(bucketMiddle(bucket)); got != bucket {
			t.Fatalf("the middle of bucket %d is in bucket %d", bucket, got)
		}
	}
	if last := bucketOf(math.MaxInt64); last != bucketCount-1 {
		t.Errorf("the longest duration is in bucket %d of %d", last, bucketCount)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var odd, even histogram
	for n := range 1000 {
		if n%2 == 0 {
			even.add(time.Duration(n+1) * time.Millisecond)
		} else {
			odd.add(time.Duration(n+1) * time.Millisecond)
		}
	}
	odd.merge(&even)
	if odd.total != 1000 {
		t.Errorf("there are %d durations, not 1000", odd.total)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		want *= time.Millisecond
		if got := odd.quantile(q); math.Abs(float64(got-want)) > float64(want)/256 {
			t.Errorf("quantile %g is %v, not %v", q, got, want)
		}
	}
	if got := new(histogram).quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}
