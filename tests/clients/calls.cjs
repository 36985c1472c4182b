// What both ways of loading the SDK do with it.
exports.deleteAll = async (WasendClient) => {
  const [baseUrl, ...calls] = process.argv.slice(2);
  for (let at = 0; at < calls.length; at += 3) {
    const [apiKey, session, group] = calls.slice(at, at + 3);
    try {
      await new WasendClient({ apiKey, baseUrl }).deleteGroupPicture(session, group);
      console.log('ok');
    } catch (error) {
      console.log('error', error.response?.data?.message ?? error.message);
    }
  }
};
