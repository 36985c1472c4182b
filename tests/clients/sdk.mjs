// The provider's JavaScript SDK as an ES module. Arguments: base URL, then key, session and group of each call.
import { WasendClient } from '@wasend/core';
import { deleteAll } from './calls.cjs';

await deleteAll(WasendClient);
