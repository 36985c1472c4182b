// Verifies what the gateway proves, with the code of Go's checksum database (golang.org/x/mod/sumdb) and none of ours:
//
//	proof-check verify-tiles BASE_URL_OR_DIR VKEY [TOKEN] [--pruned-below N]
//	proof-check verify-receipt ENTRY_FILE PROOF_FILE VKEY
//	proof-check verify-consistency OLD_NOTE_FILE NEW_NOTE_FILE PATH_FILE VKEY
//	proof-check sign ORIGIN SEED_HEX BODY
//
// Each prints one line of JSON. It exits 1, with words, on anything that does not fit.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "proof-check:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	prunedBelow := int64(0)
	var plain []string
	for at := 0; at < len(args); at++ {
		if args[at] != "--pruned-below" {
			plain = append(plain, args[at])
			continue
		}
		at++
		if at == len(args) {
			return errors.New("--pruned-below needs a number")
		}
		n, err := strconv.ParseInt(args[at], 10, 64)
		if err != nil {
			return err
		}
		prunedBelow = n
	}
	command := strings.Join(plain[:min(1, len(plain))], "")
	switch {
	case command == "verify-tiles" && (len(plain) == 3 || len(plain) == 4):
		token := strings.Join(plain[3:], "")
		return verifyTiles(source{base: plain[1], token: token}, plain[2], prunedBelow)
	case command == "verify-receipt" && len(plain) == 4:
		return verifyReceipt(plain[1], plain[2], plain[3])
	case command == "verify-consistency" && len(plain) == 5:
		return verifyConsistency(plain[1], plain[2], plain[3], plain[4])
	case command == "sign" && len(plain) == 4:
		return sign(plain[1], plain[2], plain[3])
	}
	return errors.New("usage: verify-tiles BASE VKEY [TOKEN] [--pruned-below N] | verify-receipt ENTRY PROOF VKEY | " +
		"verify-consistency OLD NEW PATH VKEY | sign ORIGIN SEED_HEX BODY")
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// show prints one line of JSON.
func show(value interface{}) error {
	line, err := json.Marshal(value)
	if err == nil {
		fmt.Println(string(line))
	}
	return err
}

// openCheckpoint verifies a note and reads it as a checkpoint of the key's log.
func openCheckpoint(text []byte, vkey string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tree, fmt.Errorf("the checkpoint: %w", err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("the checkpoint is not one of %s", verifier.Name())
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil || strconv.FormatInt(tree.N, 10) != lines[1] {
		return tree, fmt.Errorf("the checkpoint has no size in its second line: %q", lines[1])
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

func verifyReceipt(entryFile, proofFile, vkey string) error {
	entry, err := os.ReadFile(entryFile)
	if err != nil {
		return err
	}
	receipt, err := os.ReadFile(proofFile)
	if err != nil {
		return err
	}
	end := bytes.Index(receipt, []byte("\n\n"))
	if end < 0 {
		return errors.New("the receipt has no empty line")
	}
	lines := strings.Split(string(receipt[:end]), "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" || len(lines) < 2 {
		return errors.New("the receipt does not begin as one")
	}
	if lines = lines[1:]; strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return errors.New("the receipt has no index")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	if err != nil {
		return err
	}
	path, err := hashes(lines[1:])
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(receipt[end+2:], vkey)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return fmt.Errorf("the entry is not the one at index %d: %w", index, err)
	}
	return show(map[string]int64{"index": index, "size": tree.N})
}

func verifyConsistency(oldFile, newFile, pathFile, vkey string) error {
	var trees [2]tlog.Tree
	for at, file := range []string{oldFile, newFile} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if trees[at], err = openCheckpoint(text, vkey); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(pathFile)
	if err != nil {
		return err
	}
	path, err := hashes(strings.Fields(string(text)))
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(path, trees[1].N, trees[1].Hash, trees[0].N, trees[0].Hash); err != nil {
		return fmt.Errorf("the newer tree does not continue the older one: %w", err)
	}
	return show(map[string]int64{"old": trees[0].N, "new": trees[1].N})
}

func hashes(lines []string) ([]tlog.Hash, error) {
	var path []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		path = append(path, hash)
	}
	return path, nil
}

// sign shows what Go makes of a seed: both keys, and a note.
func sign(origin, seedHex, body string) error {
	seed, err := hex.DecodeString(seedHex)
	if err != nil {
		return err
	}
	skey, vkey, err := note.GenerateKey(bytes.NewReader(seed), origin)
	if err != nil {
		return err
	}
	// Newer versions of Go may ask a reader for more than the seed.
	if !strings.HasSuffix(skey, "+"+base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))) {
		return errors.New("this version of Go makes another key of the seed")
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: body}, signer)
	if err != nil {
		return err
	}
	return show(map[string]string{"skey": skey, "vkey": vkey, "note": string(signed)})
}
