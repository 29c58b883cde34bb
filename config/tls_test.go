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
	if simple.ServerName != "mq" || simple.RootCAs != nil || simple.Certificates != nil || simple.InsecureSkipVerify {
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

func TestCertificateOfAnotherKey(t *testing.T) {
	cert, _ := certificate(t)
	_, key := certificate(t)
	_, err := loadFile(t, keyLine+"[amqp]\nssl = true\nssl_cert = '"+cert+"'\nssl_key = '"+key+"'")
	if err == nil || !strings.Contains(err.Error(), ":4: amqp.ssl_cert: cannot be used with amqp.ssl_key: ") {
		t.Errorf("got %v", err)
	}
}
