package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/config"
)

// certificate returns the paths of a new self-signed certificate and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

func TestTLSConfig(t *testing.T) {
	plain, err := mustLoad(t, keyLine).AMQP.TLSConfig()
	if plain != nil || err != nil {
		t.Errorf("without ssl: got %v, %v", plain, err)
	}

	simple, err := mustLoad(t, keyLine+"amqp.ssl = true\namqp.host = 'mq'").AMQP.TLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	if simple.ServerName != "" || simple.RootCAs != nil || simple.Certificates != nil || simple.InsecureSkipVerify {
		t.Errorf("with ssl alone: got %+v", simple)
	}

	cert, key := certificate(t)
	c := mustLoad(t, keyLine+"[amqp]\nssl = true\nssl_ca = '"+cert+"'\nssl_cert = '"+cert+"'\nssl_key = '"+key+
		"'\nssl_server_name = 'broker'\nlogin_method = 'EXTERNAL'\n[database.postgres]\nsslrootcert = '"+cert+"'")
	full, err := c.AMQP.TLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	if full.ServerName != "broker" || full.RootCAs == nil || len(full.Certificates) != 1 {
		t.Errorf("with all: got %+v", full)
	}

	for _, lost := range []struct{ path, key string }{{key, "amqp.ssl_cert"}, {cert, "amqp.ssl_ca"}} {
		if err := os.Remove(lost.path); err != nil {
			t.Fatal(err)
		}
		_, err := c.AMQP.TLSConfig()
		if e, ok := errors.AsType[*config.Error](err); !ok || e.Key != lost.key || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without %s: got %v", lost.key, err)
		}
	}
}

func TestCertificateAndKey(t *testing.T) {
	cert, key := certificate(t)
	_, otherKey := certificate(t)
	for _, names := range [][2]string{{"amqp.ssl_cert", "amqp.ssl_key"}, {"database.postgres.sslcert", "database.postgres.sslkey"}, {"http.ssl_cert", "http.ssl_key"}} {
		name, keyName := names[0], names[1]
		begin := keyLine + "amqp.ssl = true\n"
		set := func(name, file string) string { return name + " = '" + file + "'\n" }
		for settings, want := range map[string]string{
			set(name, cert) + set(keyName, key):       "",
			set(name, cert) + set(keyName, otherKey):  ":3: " + name + ": cannot be used with " + keyName + ": ",
			set(name, "/nowhere") + set(keyName, key): ":3: " + name + ": cannot be used with " + keyName + ": ",
			set(name, cert):   ":3: " + name + ": needs " + keyName,
			set(keyName, key): ":3: " + keyName + ": needs " + name,
		} {
			_, err := loadFile(t, begin+settings)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: got %v", settings, err)
			}
		}
	}
}
