// Runs a client's scenarios and prints what became of each, for the test that started the script.

export const PICTURE =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

export const [URL, TOKEN, TAG, SESSION] = process.argv.slice(2);

export const ask = (behaviour, scenario) => `${behaviour} ${scenario} ${TAG}`;

export async function report(scenarios) {
  const results = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      results[name] = await scenario();
    } catch (error) {
      results[name] = { raised: `${error.name}: ${error.message}` };
    }
  }
  console.log(JSON.stringify(results));
}
