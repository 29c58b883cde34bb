package broker

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// Filtered describes a message that was changed before it was received.
type Filtered struct {
	Channel uint16
	Reason  Reason
}

// A Reason is the reason for a change of a message. It also tells what the change was.
type Reason string

const (
	UnreadableHeaders Reason = "unreadable headers" // removed: the library cannot parse them, or they hold too many values
	OversizedHeader   Reason = "oversized header"   // headers removed: with them the frame is larger than agreed
	OversizedBody     Reason = "oversized body"     // cut to one byte more than the limit
)

// ErrNotAMQP is wrapped by the error of a connection on which the peer sends bytes that
// no AMQP 0-9-1 peer sends.
var ErrNotAMQP = errors.New("this is not AMQP 0-9-1")

// A filter reads the bytes of the broker and passes them on unchanged, frame by frame, but
// it changes messages that would end the connection or fill the memory. It only removes
// bytes and overwrites numbers, so it works in the buffer that the bytes were read into:
//
//	next          checked           end
//	 | may be read | to be checked   | free ...
//
// A frame has four parts: bytes that pass, bytes that are cut, further bytes that pass, and
// the end octet. Nearly always the first part is everything but the octet. The beginning of
// a frame is enough to decide where each part ends; only a content header has to be in the
// buffer as a whole.
type filter struct {
	source     io.Reader
	frameMax   *atomic.Int64
	maxBody    int // 0: no limit
	onFiltered func(Filtered)

	buffer             []byte
	next, checked, end int
	err                error // ends the stream after the bytes that may still be read

	// The number of bytes still to come in each part of the current frame.
	pass, cut, passAfter int
	inFrame              bool // the end octet is still to come

	// wanted has, for each channel with an oversized body in its latest message, how many
	// bytes of that body still pass.
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
	for f.next == f.checked {
		if f.err != nil {
			return 0, f.err
		}
		f.fill()
	}
	n := copy(p, f.buffer[f.next:f.checked])
	f.next += n
	return n, nil
}

// fill reads once from the source. All checked bytes must have been read.
func (f *filter) fill() {
	f.end = copy(f.buffer, f.buffer[f.checked:f.end])
	f.next, f.checked = 0, 0
	n, err := f.source.Read(f.buffer[f.end:])
	f.end += n
	f.err = err
	if err := f.process(); err != nil {
		f.err = err
	}
}

// process checks the new bytes, as far as that is possible without further ones.
func (f *filter) process() error {
	for {
		f.passBytes(&f.pass)
		if f.pass > 0 {
			return nil
		}
		f.dropBytes(&f.cut)
		if f.cut > 0 {
			return nil
		}
		f.passBytes(&f.passAfter)
		if f.passAfter > 0 || f.checked == f.end {
			return nil
		}
		if f.inFrame {
			if octet := f.buffer[f.checked]; octet != frameEnd {
				return fmt.Errorf("%w: a frame ends with the octet %#x", ErrNotAMQP, octet)
			}
			f.checked++
			f.inFrame = false
		}
		started, err := f.startFrame()
		if err != nil || !started {
			return err
		}
	}
}

// passBytes lets up to *n bytes pass, and subtracts their number from *n.
func (f *filter) passBytes(n *int) {
	passed := min(*n, f.end-f.checked)
	f.checked += passed
	*n -= passed
}

// dropBytes removes up to *n bytes from the buffer, and subtracts their number from *n.
func (f *filter) dropBytes(n *int) {
	dropped := min(*n, f.end-f.checked)
	f.end = f.checked + copy(f.buffer[f.checked:], f.buffer[f.checked+dropped:f.end])
	*n -= dropped
}

// startFrame decides how to treat the next frame. It reports false if it needs more
// bytes for that.
func (f *filter) startFrame() (started bool, err error) {
	there := f.buffer[f.checked:f.end]
	if len(there) < headLen {
		return false, nil
	}
	h := head(there[:headLen])
	size := h.size()
	fits := size <= int(f.frameMax.Load())-frameOverhead
	f.pass, f.cut, f.passAfter = headLen+size, 0, 0

	switch kind := h.kind(); {
	case kind == frameHeader:
		// The whole frame or, if it does not fit, everything before the contents of the
		// headers table.
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
		delete(f.wanted, h.channel()) // the body is complete
	case kind == frameBody:
		f.startBody(h)
	}
	f.inFrame = err == nil
	return f.inFrame, err
}

// startHeader decides how to treat a content header frame. content is the payload, or
// its beginning if the whole frame does not fit.
func (f *filter) startHeader(h head, content header, fits bool) error {
	at, span, err := content.locate(headersAt)
	if err == nil && fits {
		err = content.validate()
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
	case span > 0 && !isReadableTable(content[at+4:at+span]):
		f.cutHeaders(h, content, at, span, UnreadableHeaders)
	}

	if wanted := f.maxBody + 1; f.maxBody > 0 && content.bodySize() > uint64(wanted) {
		content.setBodySize(uint64(wanted))
		f.wanted[h.channel()] = wanted
		f.onFiltered(Filtered{h.channel(), OversizedBody})
	}
	return nil
}

// cutHeaders removes the headers table from a content header frame. The table begins at
// at and takes span bytes.
func (f *filter) cutHeaders(h head, content header, at, span int, reason Reason) {
	f.pass, f.cut, f.passAfter = headLen+at, span, h.size()-at-span
	content.clearFlag(headersAt)
	h.setSize(h.size() - span)
	f.onFiltered(Filtered{h.channel(), reason})
}

// startBody decides how to treat a body frame while a body is being cut. A frame of
// which nothing passes becomes a heartbeat: the library closes a connection on which it
// receives nothing for a while.
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
