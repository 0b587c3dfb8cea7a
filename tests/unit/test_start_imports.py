"""What a process imports before it knows what it needs: that is most of the time in which it starts."""

import subprocess
import sys


def test_neither_the_identity_nor_the_blob_service_is_imported_before_it_is_used():
    program = "import sys, worker.cli, worker.app; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert "worker.app" in imported
    assert imported.isdisjoint({"azure.identity", "azure.storage.blob", "msal", "requests"})
