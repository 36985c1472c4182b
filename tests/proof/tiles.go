// Reads a log's tiles (C2SP tlog-tiles), from a folder or over HTTP, and holds them against its checkpoint.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const height = 8
const width = 1 << height

var errGone = errors.New("not there")

// source is where a log is served: a folder, or a base URL.
type source struct{ base, token string }

// get reads one resource; errGone where there is none.
func (s source) get(path string) ([]byte, error) {
	if !strings.Contains(s.base, "://") {
		data, err := os.ReadFile(filepath.Join(s.base, filepath.FromSlash(path)))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", path, errGone)
		}
		return data, err
	}
	request, err := http.NewRequest(http.MethodGet, strings.TrimSuffix(s.base, "/")+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s: %w", path, errGone)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

// name is the path of a tile as C2SP writes it: Go's, without the height, and with its own word for entries.
func name(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tile.H))
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

// Height, ReadTiles and SaveTiles make source a tlog.TileReader.
func (s source) Height() int { return height }

func (s source) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var read [][]byte
	for _, tile := range tiles {
		data, err := s.get(name(tile))
		if errors.Is(err, errGone) && tile.W < width {
			// A partial tile may be dropped when the full one is there.
			full := tile
			full.W = width
			if data, err = s.get(name(full)); err == nil && len(data) == width*tlog.HashSize {
				data = data[:tile.W*tlog.HashSize]
			}
		}
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes, not %d", name(tile), len(data), tile.W*tlog.HashSize)
		}
		read = append(read, data)
	}
	return read, nil
}

func (s source) SaveTiles([]tlog.Tile, [][]byte) {}

// verifyTiles holds every tile and every entry against the signed checkpoint.
func verifyTiles(log source, vkey string, prunedBelow int64) error {
	text, err := log.get("checkpoint")
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(text, vkey)
	if err != nil {
		return err
	}
	leaves, err := readLeaves(log, tree)
	if err != nil {
		return err
	}
	if err := recompute(log, leaves, tree); err != nil {
		return err
	}
	entries, err := readEntries(log, leaves, prunedBelow)
	if err != nil {
		return err
	}
	return show(map[string]int64{"size": tree.N, "entries": entries})
}

// readLeaves reads all leaf hashes through TileHashReader, which checks tiles up to the root on the way.
func readLeaves(log source, tree tlog.Tree) ([]tlog.Hash, error) {
	reader := tlog.TileHashReader(tree, log)
	var leaves []tlog.Hash
	const batch = 16 * width
	for first := int64(0); first < tree.N; first += batch {
		var indexes []int64
		for n := first; n < tree.N && n < first+batch; n++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, n))
		}
		read, err := reader.ReadHashes(indexes)
		if err != nil {
			return nil, fmt.Errorf("the tiles do not fit the checkpoint: %w", err)
		}
		leaves = append(leaves, read...)
	}
	return leaves, nil
}

// recompute builds the whole tree anew from its leaves, then compares the root and every tile.
//
// This does not rest on TileHashReader, which in some versions leaves the first tiles that it asks for unchecked where
// several subtrees of the tree's right edge lie in one tile.
func recompute(log source, leaves []tlog.Hash, tree tlog.Tree) error {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, index := range indexes {
			if index >= int64(len(stored)) {
				return nil, fmt.Errorf("hash %d is asked for too early", index)
			}
			found = append(found, stored[index])
		}
		return found, nil
	})
	for n, leaf := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(n), leaf, reader)
		if err != nil {
			return err
		}
		stored = append(stored, more...)
	}
	// Go's own root of a tree without entries is all zeroes; RFC 6962 has the hash of nothing.
	root := tlog.Hash(sha256.Sum256(nil))
	if tree.N > 0 {
		var err error
		if root, err = tlog.TreeHash(tree.N, reader); err != nil {
			return err
		}
	}
	if root != tree.Hash {
		return fmt.Errorf("the tiles do not fit the checkpoint: the leaves have the root %s, not %s", root, tree.Hash)
	}
	for level := 0; tree.N>>(height*level) > 0; level++ {
		count := tree.N >> (height * level)
		for n := int64(0); n*width < count; n++ {
			tile := tlog.Tile{H: height, L: level, N: n, W: min(width, int(count-n*width))}
			served, err := log.ReadTiles([]tlog.Tile{tile})
			if err != nil {
				return err
			}
			made, err := tlog.ReadTileData(tile, reader)
			if err != nil {
				return err
			}
			if !bytes.Equal(made, served[0]) {
				return fmt.Errorf("the tiles do not fit the checkpoint: %s", name(tile))
			}
		}
	}
	return nil
}

// readEntries reads all bundles, checks each entry against its leaf, and counts the entries.
func readEntries(log source, leaves []tlog.Hash, prunedBelow int64) (int64, error) {
	count := int64(0)
	for first := 0; first < len(leaves); first += width {
		tile := tlog.Tile{H: height, L: -1, N: int64(first / width), W: min(width, len(leaves)-first)}
		data, err := log.get(name(tile))
		if errors.Is(err, errGone) && int64(first+width) <= prunedBelow {
			continue
		}
		if err != nil {
			return 0, err
		}
		for n := first; n < first+tile.W; n++ {
			if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
				return 0, fmt.Errorf("%s ends within entry %d", name(tile), n)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			if tlog.RecordHash(data[2:end]) != leaves[n] {
				return 0, fmt.Errorf("entry %d is not the one that was signed", n)
			}
			data = data[end:]
			count++
		}
		if len(data) > 0 {
			return 0, fmt.Errorf("%s goes on after its last entry", name(tile))
		}
	}
	return count, nil
}
