package partition_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestOf(t *testing.T) {
	t.Run("same_as_routing_key", testOfSameAsRoutingKey)
	t.Run("one_more_partition", testOfOneMorePartition)
	t.Run("even_shares", testOfEvenShares)
	t.Run("no_partitions", testOfNoPartitions)
	t.Run("no_allocations", testOfNoAllocations)
}

func testOfSameAsRoutingKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Int64().Draw(t, "id")
		partitions := rapid.IntRange(1, 16384).Draw(t, "partitions")
		if got, want := partition.Of(id, partitions), partition.OfKey(strconv.FormatInt(id, 10), partitions); got != want {
			t.Errorf("user %d is in partition %d of %d, and not %d", id, got, partitions, want)
		}
	})
}

func testOfOneMorePartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Int64().Draw(t, "id")
		partitions := rapid.IntRange(1, 16384).Draw(t, "partitions")
		before, after := partition.Of(id, partitions), partition.Of(id, partitions+1)
		if before >= partitions || after != before && after != partitions {
			t.Errorf("user %d is in partition %d of %d, and %d of one more", id, before, partitions, after)
		}
	})
}

func testOfEvenShares(t *testing.T) {
	const users = 200_000
	for _, partitions := range []int{2, 7, 64} {
		share := make([]int, partitions)
		for id := range int64(users) {
			share[partition.Of(1+id, partitions)]++
		}
		for p, n := range share {
			if mean := users / partitions; n < mean*9/10 || n > mean*11/10 {
				t.Errorf("partition %d of %d has %d of %d users", p, partitions, n, users)
			}
		}
	}
}

func testOfNoPartitions(t *testing.T) {
	for _, partitions := range []int{0, -1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("no panic for %d partitions", partitions)
				}
			}()
			partition.Of(1, partitions)
		}()
	}
}

func testOfNoAllocations(t *testing.T) {
	for _, f := range []func(){
		func() { partition.Of(-1<<63, 1000) },
		func() { partition.OfKey(longestKey, 1000) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// longestKey is a routing key of the greatest length that AMQP allows.
var longestKey = strings.Repeat("k", 255)

func BenchmarkOf(b *testing.B) {
	for _, partitions := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(partitions), func(b *testing.B) {
			b.ReportAllocs()
			for id := int64(1_000_000_000); b.Loop(); id++ {
				partition.Of(id, partitions)
			}
		})
	}
}

func BenchmarkOfKey(b *testing.B) {
	for _, key := range []string{"1000000000", longestKey} {
		b.Run(fmt.Sprint(len(key)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				partition.OfKey(key, 64)
			}
		})
	}
}
