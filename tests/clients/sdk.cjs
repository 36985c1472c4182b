// The provider's JavaScript SDK by require. Arguments: base URL, then key, session and group of each call.
const { WasendClient } = require('@wasend/core');
const { deleteAll } = require('./calls.cjs');

deleteAll(WasendClient);
