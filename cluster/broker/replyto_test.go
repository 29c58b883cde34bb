package broker

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Names that brokers have given.
var realDirectNames = map[string]string{
	"RabbitMQ 3.10.8, Erlang 25": "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTM3NTYwNAAAAsYAAAAAawRWUA==.5ijCQxY/EeCM8IgV1xYNdQ==",
	"RabbitMQ 4.0.5, Erlang 27":  "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTU3MjIxMgAAAoEAAAAAawRWnA==.pYX1bmkkzofW6xGuBW1xoA==",
}

const someKey = "5ijCQxY/EeCM8IgV1xYNdQ=="

// process lays out a process as RabbitMQ does.
func process(node string, id, serial, creation uint32) []byte {
	b := binary.BigEndian.AppendUint16(slices.Clone(processHead), uint16(len(node)))
	b = append(b, node...)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, serial)
	return binary.BigEndian.AppendUint32(b, creation)
}

func directReplyTo(process []byte) string {
	return directQueue + "." + base64.StdEncoding.EncodeToString(process) + "." + someKey
}

func TestCheckReplyTo(t *testing.T) {
	t.Run("genuine_names_pass", testCheckReplyToGenuineNamesPass)
	t.Run("forged_names_refused", testCheckReplyToForgedNamesRefused)
}

func testCheckReplyToGenuineNamesPass(t *testing.T) {
	cases := map[string]string{
		"a queue":                       "replies",
		"a queue that the broker named": "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
		"the longest name":              strings.Repeat("q", 255),
		"not ASCII":                     "réponses/日本",
		"a NUL":                         "a\x00b",
		"something like a direct one":   "amq.rabbitmq.reply-tomorrow",
		"the largest hash":              directReplyTo(process("reply@134217727", 1, 0, 1)),
		"the smallest hash":             directReplyTo(process("reply@0", 1, 0, 1)),
		"a large process of Erlang 27":  directReplyTo(process("reply@19572212", 3060167, 77, 1)),
	}
	for name, replyTo := range realDirectNames {
		cases[name] = replyTo
	}
	for name, replyTo := range cases {
		if err := CheckReplyTo(replyTo); err != nil {
			t.Errorf("%s: %q: %v", name, replyTo, err)
		}
	}
}

func testCheckReplyToForgedNamesRefused(t *testing.T) {
	const hashed = "reply@19375604"
	real := realDirectNames["RabbitMQ 3.10.8, Erlang 25"]
	first, second, _ := strings.Cut(strings.TrimPrefix(real, directQueue+"."), ".")
	valid := process(hashed, 710, 0, 1795446352)
	if got := directReplyTo(valid); got != real {
		t.Fatalf("%q is not laid out as %q", got, real)
	}
	with := func(at int, b byte) []byte {
		changed := slices.Clone(valid)
		changed[at] = b
		return changed
	}
	for name, replyTo := range map[string]string{
		"nothing":               "",
		"too long":              strings.Repeat("q", 256),
		"no text":               "\xff\xfe",
		"the queue itself":      directQueue,
		"no name":               directQueue + ".",
		"garbage":               directQueue + ".garbage",
		"garbage twice":         directQueue + ".garbage.garbage",
		"no key":                directQueue + "." + first,
		"an empty key":          directQueue + "." + first + ".",
		"a third part":          real + ".x",
		"an empty third part":   real + ".",
		"an empty first part":   directQueue + ".." + first + "." + second,
		"an empty middle":       directQueue + "." + first + ".." + second,
		"a short key":           directQueue + "." + first + "." + base64.StdEncoding.EncodeToString(make([]byte, 15)),
		"a long key":            directQueue + "." + first + "." + base64.StdEncoding.EncodeToString(make([]byte, 17)),
		"a key that is no text": directQueue + "." + first + ".\xff\xfe",
		"a line break":          directQueue + "." + first[:8] + "\n" + first[8:] + "." + second,
		"a space":               directQueue + "." + first[:8] + " " + first[8:] + "." + second,
		"no padding":            directQueue + "." + strings.TrimRight(first, "=") + "." + second,
		"padding bits":          directQueue + "." + first + "." + strings.Replace(second, "Q==", "R==", 1),
		"URL's base64":          strings.ReplaceAll(real, "/", "_"),
		"another term version":  directReplyTo(with(0, 130)),
		"an old process":        directReplyTo(with(1, 103)),
		"a Latin-1 node":        directReplyTo(with(2, 100)),
		"a compressed term":     directReplyTo(with(1, 80)),
		"a small atom":          directReplyTo(with(2, 119)),
		"a long node":           directReplyTo(with(3, 1)),
		"a short node":          directReplyTo(with(4, 13)),
		"another prefix":        directReplyTo(process("other@19375604", 710, 0, 1)),
		"no hash":               directReplyTo(process("reply@", 710, 0, 1)),
		"a hash with a sign":    directReplyTo(process("reply@+1", 710, 0, 1)),
		"a hash with a zero":    directReplyTo(process("reply@01", 710, 0, 1)),
		"a hash that is none":   directReplyTo(process("reply@134217728", 710, 0, 1)),
		"a huge hash":           directReplyTo(process("reply@99999999999999999999", 710, 0, 1)),
		"no node":               directReplyTo(process("", 710, 0, 1)),
		"surplus":               directReplyTo(append(slices.Clone(valid), 0)),
		"nothing but a version": directReplyTo([]byte{131}),
		"an integer":            directReplyTo([]byte{131, 97, 1}),
		"an atom":               directReplyTo([]byte{131, 119, 3, 'x', 'y', 'z'}),
		"a function":            directReplyTo([]byte{131, 113, 0, 0, 0, 0}),
		"a bomb":                directReplyTo([]byte{131, 80, 0xff, 0xff, 0xff, 0xff, 1, 2}),
		"a true node's name":    directReplyTo(process("rabbit@host", 1, 0, 1)),
		"RabbitMQ 3.8.9":        "amq.rabbitmq.reply-to.g1hkAAtjQGxvY2FsaG9zdAAAAt0AAAAAawRWyQ==.THZSaHMnP1/5GT9p4fZ/nw==",
	} {
		if err := CheckReplyTo(replyTo); !errors.Is(err, ErrReplyTo) {
			t.Errorf("%s: %q: error %v", name, replyTo, err)
		}
	}
}

// An accepted name contains only what a broker puts there.
func FuzzReplyTo(f *testing.F) {
	for _, name := range realDirectNames {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, replyTo string) {
		name, err := parseReplyTo(replyTo)
		if direct := strings.HasPrefix(replyTo, directQueue+"."); err != nil || direct != (name != nil) {
			if err == nil {
				t.Fatalf("%q: direct: %v", replyTo, !direct)
			}
			return
		}
		if name == nil {
			return
		}
		id, serial := binary.BigEndian.Uint32(name.process[name.idAt:]), binary.BigEndian.Uint32(name.process[name.idAt+4:])
		creation := binary.BigEndian.Uint32(name.process[name.idAt+8:])
		again := process(name.node, id, serial, creation)
		_, key, _ := strings.Cut(strings.TrimPrefix(replyTo, directQueue+"."), ".")
		if got := directQueue + "." + base64.StdEncoding.EncodeToString(again) + "." + key; got != replyTo {
			t.Fatalf("%q was read as %q", replyTo, got)
		}
		if sibling, err := parseReplyTo(name.probeName()); err != nil || sibling.node != name.node || sibling.wide {
			t.Fatalf("%q has the sibling %q", replyTo, name.probeName())
		}
	})
}

func BenchmarkCheckReplyTo(b *testing.B) {
	for _, replyTo := range []string{"amq.gen-JzTY20BRgKO-HjmUJj0wLg", realDirectNames["RabbitMQ 3.10.8, Erlang 25"]} {
		b.Run(replyTo[:len(directQueue)], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := CheckReplyTo(replyTo); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
