// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package hcvault

import (
	"time"

	"github.com/getsops/sops/v3/keys"
)

type MasterKey struct {
	keys.LeftOut
	VaultAddress, EnginePath, KeyName, EncryptedKey string
	CreationDate                                    time.Time
}

func NewMasterKeyFromURI(string) (*MasterKey, error)     { return nil, keys.ErrLeftOut }
func NewMasterKeysFromURIs(string) ([]*MasterKey, error) { return nil, nil }
