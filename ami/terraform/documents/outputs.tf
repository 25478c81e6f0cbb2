output "policies" {
  description = "The inline policies of the role, by name."
  value = {
    for name, text in local.listed : name => jsonencode({
      Version   = "2012-10-17"
      Statement = [for statement in jsondecode(text).Statement : statement if !contains(local.policies[name].without, statement.Sid)]
    })
  }
}

output "trust" {
  description = "The trust policy of the role."
  value       = file("${path.module}/../../iam/trust-policy.json")
}

output "config" {
  description = "The config file, which is the user data as it stands."
  value       = local.config
}
