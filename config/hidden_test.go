package config_test

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/glotpod/ident/config"
)

// showings are the ways to convert a value to text.
var showings = map[string]func(any) string{
	"json": func(v any) string {
		b, err := json.Marshal(v)
		return fmt.Sprint(string(b), err)
	},
	"xml": func(v any) string {
		b, err := xml.Marshal(v)
		return fmt.Sprint(string(b), err)
	},
	"toml": func(v any) string {
		b, err := toml.Marshal(struct{ V any }{v})
		return fmt.Sprint(string(b), err)
	},
	"slog text": func(v any) string {
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		return b.String()
	},
	"slog json": func(v any) string {
		var b bytes.Buffer
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		return b.String()
	},
	"zap json": func(v any) string {
		return logged(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), v)
	},
	"zap console": func(v any) string {
		return logged(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), v)
	},
}

func init() {
	for _, verb := range strings.Split("v +v #v s q x X d o b c e f g t T p 10v -10s .3s", " ") {
		showings["%"+verb] = func(v any) string { return fmt.Sprintf("%"+verb, v) }
	}
}

func logged(encoder zapcore.Encoder, v any) string {
	var b bytes.Buffer
	log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&b), zap.DebugLevel))
	log.Info("x", zap.Any("v", v), zap.Reflect("w", v))
	log.Sugar().Infow("x", "v", v)
	log.Sugar().Infof("%+v", v)
	return b.String()
}

// wantHidden fails if text contains any of the secrets, plain or encoded.
func wantHidden(t *testing.T, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		for _, form := range []string{
			s,
			hex.EncodeToString([]byte(s)),
			strings.ToUpper(hex.EncodeToString([]byte(s))),
			base64.StdEncoding.EncodeToString([]byte(s)),
			base64.URLEncoding.EncodeToString([]byte(s)),
			base32.StdEncoding.EncodeToString([]byte(s)),
			strings.Trim(fmt.Sprint([]byte(s)), "[]"),
			s[:3],
		} {
			if strings.Contains(text, form) {
				t.Errorf("shows %q: %s", form, text)
			}
		}
	}
}

func TestConfigHidesSecrets(t *testing.T) {
	path := write(t, "%#pg-password#%")
	c := mustLoad(t, keyLine, "GLOTPOD_IDENT__AMQP__PASSWORD=%#mq-password#%", "GLOTPOD_IDENT__DATABASE__POSTGRES__PASSWORD_FILE="+path)
	key := c.Database.EncryptionKeys[0].Reveal()

	type wrapped struct {
		config   config.Config
		password config.Secret
		key      *config.Key
		m        map[string]any
	}
	for name, show := range showings {
		t.Run(name, func(t *testing.T) {
			for _, v := range []any{
				c, *c, c.Database, &c.AMQP, c.Database.EncryptionKeys, c.Database.EncryptionKeys[0],
				c.AMQP.Password, &c.AMQP.Password, []config.Secret{c.AMQP.Password},
				map[string]any{"p": c.AMQP.Password}, map[config.Secret]int{c.AMQP.Password: 1},
				wrapped{*c, c.AMQP.Password, &c.Database.EncryptionKeys[0], map[string]any{"p": c.AMQP.Password}},
				&wrapped{config: *c, password: c.AMQP.Password},
			} {
				wantHidden(t, show(v), "%#mq-password#%", "%#pg-password#%", keyText, string(key[:]))
			}
		})
	}
}

func TestHidden(t *testing.T) {
	h, none := config.Hide("hunter2"), config.Hide("")
	if h.Reveal() != "hunter2" || none.Reveal() != "" || none != (config.Secret{}) {
		t.Errorf("reveals %q and %q", h.Reveal(), none.Reveal())
	}
	if got := fmt.Sprintf("%s|%v|%#v|%q", h, &h, none, none); got != "[redacted]|[redacted]||" {
		t.Errorf("prints %s", got)
	}
	if b, err := json.Marshal([]config.Secret{h, none}); err != nil || string(b) != `["[redacted]",""]` {
		t.Errorf("encodes as %s, %v", b, err)
	}
}

func TestErrorsHideSecrets(t *testing.T) {
	const secret = "hunter2-and-4-more"
	for _, content := range []string{
		"password = '" + secret,
		"password = " + secret,
		"password = 7" + secret,
		"password = \"\\" + secret + "\"",
		"password = ['" + secret + "']",
		"password = {a = '" + secret + "'}",
		"password = '" + secret + "'\npassword = '" + secret + "'",
		"passwort = '" + secret + "'",
		"passwort = " + secret,
		"password = '" + secret + "\\u0000'\nport = 0",
		"password = \"" + secret + "\\u0000\"",
		"password = '" + secret + "'\npassword_file = 'x'",
	} {
		t.Run("", func(t *testing.T) { // its name gets into the path
			_, err := loadFile(t, keyLine+"[database.postgres]\n"+content)
			if err == nil {
				t.Fatal("taken")
			}
			wantHidden(t, fmt.Sprintf("%v %+v %#v", err, err, faults(t, err)), secret)
		})
	}
	for _, content := range []string{
		"encryption_key = '" + secret + "'",
		"encryption_key = " + keyText,
		"encryption_key = ['" + keyText + "', '" + secret + "']",
		"encryption_key = '" + keyText[1:] + "'",
		"encryption_keys = '" + keyText + "'",
		"encryption_key_file = '" + write(t, keyText[1:]) + "'",
	} {
		t.Run("", func(t *testing.T) { // its name gets into the path
			_, err := loadFile(t, "[database]\n"+content)
			if err == nil {
				t.Fatal("taken")
			}
			wantHidden(t, err.Error(), secret, keyText, keyText[1:])
		})
	}
	for _, entry := range []string{
		"GLOTPOD_IDENT__AMQP__PASSWROD=" + secret,
		"GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY=" + secret,
	} {
		_, err := config.Load([]string{entry})
		if err == nil {
			t.Fatal("taken")
		}
		wantHidden(t, err.Error(), secret)
	}
}

// Numbers that toml would quote in its error, and dates, are hidden too.
func TestErrorsHideBareSecrets(t *testing.T) {
	for _, secret := range []string{"99999999999999999999", "0777_", "1979-13-45", "1.e5", "0b12", "+0x1"} {
		_, err := loadFile(t, keyLine+"[amqp]\npassword = "+secret)
		if err == nil {
			t.Fatalf("%s is taken", secret)
		}
		if all := faults(t, err); len(all) != 1 || strings.Contains(all[0].Err.Error(), secret) {
			t.Errorf("%s: got %v", secret, err)
		}
	}
}
