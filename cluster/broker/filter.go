package broker

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// Filtered is a message that was changed before it was received.
type Filtered struct {
	Channel uint16
	Reason  Reason
}

// A Reason says why a message was changed, and by that how.
type Reason string

const (
	UnreadableHeaders Reason = "unreadable headers" // taken out: the library could not parse them, or they hold too much
	OversizedHeader   Reason = "oversized header"   // headers taken out: with them the frame is larger than agreed
	OversizedBody     Reason = "oversized body"     // cut to one byte more than is allowed
)

// ErrNotAMQP is wrapped by the error of a connection on which there comes what
// no AMQP 0-9-1 peer sends.
var ErrNotAMQP = errors.New("this is not AMQP 0-9-1")

// A filter reads what the broker sends and passes it on as it came, frame by
// frame, except that it changes messages which would end the connection or fill
// the memory. It only takes bytes out and overwrites numbers, so all happens in
// the buffer that the bytes were read into:
//
//	next          seen              end
//	 | may be read | to be looked at | free ...
//
// A frame is dealt with in four parts: bytes that pass, bytes that are cut, more
// bytes that pass, and the end octet. Nearly always the first part is all but the
// octet. Where each part ends is decided from the beginning of the frame; only a
// content header has to be there as a whole.
type filter struct {
	source     io.Reader
	frameMax   *atomic.Int64
	maxBody    int // 0 for no limit
	onFiltered func(Filtered)

	buffer          []byte
	next, seen, end int
	err             error // ends the stream after what may still be read

	// What is still to come of the current frame.
	pass, cut, passAfter int
	inFrame              bool // its end octet is still to come

	// wanted is how many bytes of a body are still to pass, for each channel
	// whose last message has an oversized one.
	wanted map[uint16]int
}

func newFilter(source io.Reader, frameMax *atomic.Int64, maxBody int, onFiltered func(Filtered)) *filter {
	if onFiltered == nil {
		onFiltered = func(Filtered) {}
	}
	return &filter{
		source:     source,
		frameMax:   frameMax,
		maxBody:    maxBody,
		onFiltered: onFiltered,
		buffer:     make([]byte, frameMax.Load()),
		wanted:     make(map[uint16]int),
	}
}

// Read implements [io.Reader].
func (f *filter) Read(p []byte) (int, error) {
	for f.next == f.seen {
		if f.err != nil {
			return 0, f.err
		}
		f.fill()
	}
	n := copy(p, f.buffer[f.next:f.seen])
	f.next += n
	return n, nil
}

// fill reads once from the source. Everything that was seen has been read.
func (f *filter) fill() {
	f.end = copy(f.buffer, f.buffer[f.seen:f.end])
	f.next, f.seen = 0, 0
	n, err := f.source.Read(f.buffer[f.end:])
	f.end += n
	f.err = err
	if err := f.look(); err != nil {
		f.err = err
	}
}

// look goes through the new bytes as far as it can without more of them.
func (f *filter) look() error {
	for {
		f.see(&f.pass)
		if f.pass > 0 {
			return nil
		}
		f.drop(&f.cut)
		if f.cut > 0 {
			return nil
		}
		f.see(&f.passAfter)
		if f.passAfter > 0 || f.seen == f.end {
			return nil
		}
		if f.inFrame {
			if octet := f.buffer[f.seen]; octet != frameEnd {
				return fmt.Errorf("%w: a frame ends with the octet %#x", ErrNotAMQP, octet)
			}
			f.seen++
			f.inFrame = false
		}
		started, err := f.startFrame()
		if err != nil || !started {
			return err
		}
	}
}

// see lets up to *n bytes pass, and counts them off.
func (f *filter) see(n *int) {
	passed := min(*n, f.end-f.seen)
	f.seen += passed
	*n -= passed
}

// drop takes up to *n bytes out of the buffer, and counts them off.
func (f *filter) drop(n *int) {
	dropped := min(*n, f.end-f.seen)
	f.end = f.seen + copy(f.buffer[f.seen:], f.buffer[f.seen+dropped:f.end])
	*n -= dropped
}

// startFrame decides what to do with the next frame. It reports false if it
// needs more bytes for that.
func (f *filter) startFrame() (started bool, err error) {
	there := f.buffer[f.seen:f.end]
	if len(there) < headLen {
		return false, nil
	}
	h := head(there[:headLen])
	size := h.size()
	fits := size <= int(f.frameMax.Load())-frameOverhead
	f.pass, f.cut, f.passAfter = headLen+size, 0, 0

	switch kind := h.kind(); {
	case kind == frameHeader:
		// All of it, or all that comes before the contents of the headers.
		needed := headLen + min(size, frontMax)
		if fits {
			needed = headLen + size
		}
		if len(there) < needed {
			f.pass = 0
			return false, nil
		}
		err = f.startHeader(h, header(there[headLen:min(len(there), headLen+size)]), fits)
	case kind != frameMethod && kind != frameBody && kind != frameHeartbeat:
		err = fmt.Errorf("%w: a frame of type %d", ErrNotAMQP, kind)
	case !fits:
		err = fmt.Errorf("%w: a frame with %d bytes of payload, more than agreed", ErrNotAMQP, size)
	case len(f.wanted) == 0:
	case kind == frameMethod:
		delete(f.wanted, h.channel()) // the body is over
	case kind == frameBody:
		f.startBody(h)
	}
	f.inFrame = err == nil
	return f.inFrame, err
}

// startHeader decides what to do with a content header frame. content is the
// payload, or its beginning where the whole frame does not fit.
func (f *filter) startHeader(h head, content header, fits bool) error {
	at, span, err := content.find(headersAt)
	if err == nil && fits {
		err = content.check()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAMQP, err)
	}
	switch {
	case !fits:
		if size := h.size() - span; size < at || size > int(f.frameMax.Load())-frameOverhead {
			return fmt.Errorf("%w: a content header of %d bytes", ErrNotAMQP, h.size())
		}
		f.cutHeaders(h, content, at, span, OversizedHeader)
	case span > 0 && !checkTable(content[at+4:at+span]):
		f.cutHeaders(h, content, at, span, UnreadableHeaders)
	}

	if wanted := f.maxBody + 1; f.maxBody > 0 && content.bodySize() > uint64(wanted) {
		content.setBodySize(uint64(wanted))
		f.wanted[h.channel()] = wanted
		f.onFiltered(Filtered{h.channel(), OversizedBody})
	}
	return nil
}

// cutHeaders takes the headers out of a content header frame. They begin at at,
// and take span bytes.
func (f *filter) cutHeaders(h head, content header, at, span int, reason Reason) {
	f.pass, f.cut, f.passAfter = headLen+at, span, h.size()-at-span
	content.clear(headersAt)
	h.setSize(h.size() - span)
	f.onFiltered(Filtered{h.channel(), reason})
}

// startBody decides what to do with a body frame, while some body is being cut.
// Of a frame that is not wanted at all there remains a heartbeat: the library
// gives up a connection on which it sees nothing for a while.
func (f *filter) startBody(h head) {
	wanted, ok := f.wanted[h.channel()]
	if !ok {
		return
	}
	size := h.size()
	passes := min(size, wanted)
	f.wanted[h.channel()] = wanted - passes
	f.pass, f.cut = headLen+passes, size-passes
	if passes == 0 {
		h.setHeartbeat()
	} else {
		h.setSize(passes)
	}
}
