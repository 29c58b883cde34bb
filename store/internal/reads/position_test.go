package reads

import (
	"encoding/base64"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
)

func TestPosition(t *testing.T) {
	t.Run("is_read_as_it_was_written", func(t *testing.T) {
		all := make([]int64, maxPartitions)
		for i := range all {
			all[i] = math.MaxInt64 - int64(i)
		}
		for _, p := range []logPosition{
			{first: time.Unix(0, 0).UTC()},
			{first: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), partitions: []int64{0, 1, 5<<40 | 7}, next: 2},
			{first: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), partitions: all, next: maxPartitions - 1},
		} {
			read, refusal := parsePosition(p.String())
			if refusal != nil || !read.first.Equal(p.first) || !slices.Equal(read.partitions, p.partitions) || read.next != p.next {
				t.Errorf("%d partitions are read as %+v, %v", len(p.partitions), read, refusal)
			}
		}
	})

	good := (&logPosition{first: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), partitions: []int64{3, 300}}).String()
	encode := func(b ...byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	huge := slices.Concat([]byte{2, 1, 0}, slices.Repeat([]byte{0xff}, 9), []byte{1})
	t.Run("malformed", func(t *testing.T) {
		for what, text := range map[string]string{
			"empty":                    "",
			"text":                     "yesterday",
			"padded":                   good + "=",
			"with_a_line_break":        good[:4] + "\n" + good[4:],
			"truncated":                good[:len(good)-1],
			"longer":                   good + "AA",
			"other_version_padded":     encode(1, 1) + "=",
			"other_version_and_bits":   "AQF",
			"version_alone":            encode(2),
			"with_too_late_a_day":      encode(2, 0xff, 0xff, 0xff, 0x7f, 0, 0),
			"with_too_many_partitions": encode(2, 1, 0, 0x81, 0x08),
			"with_missing_partitions":  encode(2, 1, 0, 3, 1, 1),
			"with_a_negative_position": encode(slices.Concat([]byte{2, 1, 0, 1}, slices.Repeat([]byte{0xff}, 9), []byte{1})...),
			"with_a_huge_number":       encode(huge...),
			"with_a_longer_number":     encode(2, 1, 0, 1, 0x81, 0),
			"as_large_as_a_body":       strings.Repeat("A", 1<<20),
		} {
			if p, refusal := parsePosition(text); refusal != actor.NoPosition {
				t.Errorf("%s: read as %+v, %v", what, p, refusal)
			}
		}
	})

	t.Run("of_another_version_is_gone", func(t *testing.T) {
		for _, text := range []string{encode(1), encode(1, 1, 0), encode(3, 1, 2), encode(slices.Concat([]byte{3}, huge)...)} {
			if p, refusal := parsePosition(text); refusal != actor.ChangesMissing {
				t.Errorf("%s: read as %+v, %v", text, p, refusal)
			}
		}
	})

	t.Run("costs_little_memory", func(t *testing.T) {
		text := strings.Repeat("_", maxPositionLength)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			parsePosition(text)
			parsePosition(encode(huge...))
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / 100; each > 192<<10 {
			t.Errorf("%d bytes", each)
		}
	})
}

// FuzzPosition: what is accepted is exactly what String returns.
func FuzzPosition(f *testing.F) {
	f.Add((&logPosition{first: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), partitions: []int64{0, 1 << 40}}).String())
	f.Add("")
	f.Add("AgAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		p, refusal := parsePosition(text)
		if refusal != nil {
			return
		}
		again, refusal := parsePosition(p.String())
		if p.String() != text || refusal != nil || !reflect.DeepEqual(p, again) || len(p.partitions) > maxPartitions {
			t.Errorf("%q is read as %+v and %+v", text, p, again)
		}
		if year := p.first.Year(); year < 1970 || year > 9999 {
			t.Errorf("the year is %d", year)
		}
		p.isGone([]partitionState{{Pruned: 1}, {Pruned: 2}})
	})
}
