package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// screenshotsVariable names a folder that screenshots are written to, if set.
const screenshotsVariable = "GLOTPOD_IDENT_SCREENSHOTS"

// A Browser is a Chromium with one page.
type Browser struct {
	ctx context.Context

	mu         sync.Mutex // guards the following fields
	hosts      []string   // that the page has sent requests to
	complaints []string   // errors and warnings in its console
}

// OpenPage starts a browser and opens a page.
func OpenPage(t *testing.T, address string) *Browser {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.Headless,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("disable-sync", true),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(Timeout),
	}
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // root has none
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator)
	b := &Browser{ctx: ctx}
	t.Cleanup(func() {
		defer end()
		ctx, cancel := context.WithTimeout(ctx, Timeout)
		defer cancel()
		chromedp.Cancel(ctx) // one that does not close by itself is ended by end
	})
	// What runs first starts the browser, which lives as long as its context.
	if err := chromedp.Listen(ctx, b.note); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	command(t, b, network.Enable, network.EnableParams{})
	b.resize(t, 1280, 900)
	b.Navigate(t, address)
	return b
}

// Navigate opens another page, and returns when it is loaded.
func (b *Browser) Navigate(t *testing.T, address string) {
	t.Helper()
	drive(t, b, chromedp.Navigate(address))
}

// note records an event of the browser.
func (b *Browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" {
			b.hosts = append(b.hosts, u.Host)
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprintf("%s at line %d", e.ExceptionDetails.Text, e.ExceptionDetails.LineNumber))
	case *runtime.EventConsoleAPICalled:
		for _, arg := range e.Args {
			b.complaints = append(b.complaints, string(arg.Value))
		}
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, e.Entry.Text+" "+e.Entry.URL)
	}
}

// drive runs an action of the browser and returns its result.
func drive[T any](t *testing.T, b *Browser, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, Timeout)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatalf("the browser: %v", err)
	}
	return value
}

// command runs a command of the DevTools protocol.
func command[P, R any](t *testing.T, b *Browser, c cdp.Command[P, R], params P) R {
	t.Helper()
	return drive(t, b, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, c, params)
	})
}

// Eval returns the value of an expression in JavaScript, decoded from JSON.
func (b *Browser) Eval(t *testing.T, expression string) any {
	t.Helper()
	var value any
	text := drive(t, b, chromedp.Evaluate[string]("JSON.stringify(("+expression+") ?? null)"))
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %q: %v", expression, text, err)
	}
	return value
}

// ExpectTrue waits until an expression in JavaScript is true.
func (b *Browser) ExpectTrue(t *testing.T, what, expression string) {
	t.Helper()
	shown := false
	defer func() {
		if !shown {
			t.Logf("the page: %v", b.Eval(t, "document.body.innerText"))
		}
	}()
	Eventually(t, what, func() bool {
		shown = b.Eval(t, "!!("+expression+")") == true
		return shown
	})
}

// ExpectText waits until the text of the element with an id contains another.
func (b *Browser) ExpectText(t *testing.T, id, text string) {
	t.Helper()
	b.ExpectTrue(t, fmt.Sprintf("%s says %q", id, text), fmt.Sprintf("document.getElementById(%q).textContent.includes(%q)", id, text))
}

// resize gives the page another size.
func (b *Browser) resize(t *testing.T, width, height int64) {
	t.Helper()
	command(t, b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
}

// CheckFits fails if the page is wider than the screen.
func (b *Browser) CheckFits(t *testing.T, widths ...int64) {
	t.Helper()
	for _, width := range widths {
		b.resize(t, width, 740)
		if b.Eval(t, "innerWidth") != float64(width) || b.Eval(t, "document.documentElement.scrollWidth <= innerWidth") != true {
			t.Errorf("at a width of %d the page is %v wide, in a window of %v", width,
				b.Eval(t, "document.documentElement.scrollWidth"), b.Eval(t, "innerWidth"))
		}
	}
}

// CheckConsole fails if the browser has complained, or asked any other host.
func (b *Browser) CheckConsole(t *testing.T, host string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, complaint := range b.complaints {
		t.Errorf("the browser's console: %s", complaint)
	}
	if len(b.hosts) == 0 || slices.ContainsFunc(b.hosts, func(h string) bool { return h != host }) {
		t.Errorf("the browser has asked %q, and not %s alone", b.hosts, host)
	}
}

// Screenshot writes screenshots of the page in each appearance, where they are wanted.
func (b *Browser) Screenshot(t *testing.T, name string) {
	t.Helper()
	folder := os.Getenv(screenshotsVariable)
	if folder == "" {
		return
	}
	appear := func(scheme string, sight emulation.SetEmulatedVisionDeficiencyType) {
		command(t, b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		command(t, b, emulation.SetEmulatedVisionDeficiency, emulation.SetEmulatedVisionDeficiencyParams{Type: sight})
	}
	for _, look := range []struct {
		name   string
		width  int64
		scheme string
		sight  emulation.SetEmulatedVisionDeficiencyType
	}{
		{"desktop-light", 1280, "light", emulation.SetEmulatedVisionDeficiencyTypeNone},
		{"desktop-dark", 1280, "dark", emulation.SetEmulatedVisionDeficiencyTypeNone},
		{"desktop-gray", 1280, "light", emulation.SetEmulatedVisionDeficiencyTypeAchromatopsia},
		{"phone-light", 360, "light", emulation.SetEmulatedVisionDeficiencyTypeNone},
		{"phone-dark", 360, "dark", emulation.SetEmulatedVisionDeficiencyTypeNone},
	} {
		b.resize(t, look.width, 740)
		appear(look.scheme, look.sight)
		drive(t, b, chromedp.Sleep(500*time.Millisecond)) // for it to be drawn so
		picture := drive(t, b, chromedp.FullScreenshot(100))
		if err := os.WriteFile(filepath.Join(folder, name+"-"+look.name+".png"), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	appear("", emulation.SetEmulatedVisionDeficiencyTypeNone)
	b.resize(t, 1280, 900)
}
