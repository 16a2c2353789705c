// The reference that kmsward is compared with: the usual way of writing a plugin, grpc-go with generated stubs, and
// AES-256-GCM under one key in memory. It keeps no promise of a real plugin but the wire format.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kmsapi/v1beta1"
	"kmsapi/v2"
)

const keyID = "grpc-go-reference"

type box struct{ aead cipher.AEAD }

func newBox() (box, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return box{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return box{}, err
	}
	aead, err := cipher.NewGCM(block)
	return box{aead}, err
}

func (b box) seal(plain []byte) ([]byte, error) {
	nonce := make([]byte, b.aead.NonceSize(), b.aead.NonceSize()+len(plain)+b.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return b.aead.Seal(nonce, nonce, plain, []byte(keyID)), nil
}

func (b box) open(sealed []byte) ([]byte, error) {
	size := b.aead.NonceSize()
	if len(sealed) < size {
		return nil, status.Error(codes.InvalidArgument, "too short")
	}
	plain, err := b.aead.Open(nil, sealed[:size], sealed[size:], []byte(keyID))
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "damaged or foreign")
	}
	return plain, nil
}

type second struct{ box }

func (s second) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	return &v2.StatusResponse{Version: "v2beta1", Healthz: "ok", KeyId: keyID}, nil
}

func (s second) Encrypt(_ context.Context, in *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	sealed, err := s.seal(in.Plaintext)
	if err != nil {
		return nil, err
	}
	return &v2.EncryptResponse{Ciphertext: sealed, KeyId: keyID}, nil
}

func (s second) Decrypt(_ context.Context, in *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	if in.KeyId != keyID {
		return nil, status.Error(codes.InvalidArgument, "unknown key_id")
	}
	plain, err := s.open(in.Ciphertext)
	if err != nil {
		return nil, err
	}
	return &v2.DecryptResponse{Plaintext: plain}, nil
}

type first struct{ box }

func (f first) Version(context.Context, *v1beta1.VersionRequest) (*v1beta1.VersionResponse, error) {
	return &v1beta1.VersionResponse{Version: "v1beta1", RuntimeName: keyID, RuntimeVersion: "1.0.0"}, nil
}

func (f first) Encrypt(_ context.Context, in *v1beta1.EncryptRequest) (*v1beta1.EncryptResponse, error) {
	sealed, err := f.seal(in.Plain)
	if err != nil {
		return nil, err
	}
	return &v1beta1.EncryptResponse{Cipher: sealed}, nil
}

func (f first) Decrypt(_ context.Context, in *v1beta1.DecryptRequest) (*v1beta1.DecryptResponse, error) {
	plain, err := f.open(in.Cipher)
	if err != nil {
		return nil, err
	}
	return &v1beta1.DecryptResponse{Plain: plain}, nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: grpc-go SOCKET")
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	key, err := newBox()
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	v2.RegisterKeyManagementServiceServer(server, second{key})
	v1beta1.RegisterKeyManagementServiceServer(server, first{key})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
