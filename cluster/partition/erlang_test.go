package partition

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// erlang returns the fields of each line of a file that testdata/erlang.escript has
// written.
func erlang(t *testing.T, file string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

func number[T int | int64 | uint32](t *testing.T, s string) T {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return T(n)
}

func TestErlang(t *testing.T) {
	t.Run("hash", testErlangHash)
	t.Run("random_numbers", testErlangRandomNumbers)
	t.Run("partition", testErlangPartition)
	t.Run("every_seed", testErlangEverySeed)
}

func testErlangHash(t *testing.T) {
	for _, line := range erlang(t, "phash2.txt") {
		key, err := hex.DecodeString(strings.TrimPrefix(line[0], "x"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := phash2(key), number[uint32](t, line[1]); got != want {
			t.Errorf("phash2(%x) = %d, in Erlang %d", key, got, want)
		}
	}
}

func testErlangRandomNumbers(t *testing.T) {
	for _, line := range erlang(t, "exs1024.txt") {
		var random exs1024
		random.seed(number[uint32](t, line[0]))
		for i, want := range line[1:] {
			bits, err := strconv.ParseUint(want, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := random.uniform(), math.Float64frombits(bits); got != want {
				t.Fatalf("number %d from seed %s is %v, in Erlang %v", i, line[0], got, want)
			}
		}
	}
}

// counts are the numbers of partitions in the files.
var counts = [...]int{1, 2, 7, 64, 1000, 16384}

func testErlangPartition(t *testing.T) {
	for _, line := range erlang(t, "buckets.txt") {
		id := number[int64](t, line[0])
		for i, partitions := range counts {
			if got, want := Of(id, partitions), number[int](t, line[1+i]); got != want {
				t.Errorf("user %d is in partition %d of %d, in Erlang %d", id, got, partitions, want)
			}
		}
	}
}

func testErlangEverySeed(t *testing.T) {
	t.Parallel()
	digest := sha256.New()
	var buckets []byte
	for seed := range uint32(1 << 21) {
		buckets = buckets[:0]
		for _, partitions := range counts {
			buckets = binary.BigEndian.AppendUint16(buckets, uint16(jump(seed, partitions)))
		}
		digest.Write(buckets)
	}
	if got, want := hex.EncodeToString(digest.Sum(nil)), erlang(t, "every_seed.txt")[0][0]; got != want {
		t.Errorf("the digest of all is %s, in Erlang %s", got, want)
	}
}
